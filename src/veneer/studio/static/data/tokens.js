// The tokens of rows: those that are trained are marked.
import { html } from "/static/library/preact.js";
import { counted, number } from "/static/common/figures.js";

// Shown for a token without text of its own: a character of several tokens is shown at the first of them.
const CONTINUED = "·";

// The text of a row's token. `odd` has those whose text depends on their neighbours.
const tokenText = (row, place, texts) => (row.odd || {})[place] ?? texts[row.ids[place]];

// The whole text of a row. `texts` has the text of each token.
export const textOf = (row, texts) =>
  row.ids
    ? row.ids.map((_, place) => tokenText(row, place, texts)).join("")
    : row.strings.map(([, text]) => text).join(" ");

// A row of a check, with the names of its fields. Without a tokenizer, it has strings instead of tokens.
export function RowTokens({ row, texts, fields }) {
  if (!row.ids) {
    const lines = (row.strings || []).map(([name, text]) => `${name ? `${name}: ` : ""}${text}`);
    return html`<div class="tokens">${lines.join("\n")}</div>`;
  }
  const tokens = [];
  for (const [end, isTrained, field] of row.spans)
    for (let place = tokens.length; place < end; place += 1)
      tokens.push(
        html`<span
          key=${place}
          class=${isTrained ? "t" : ""}
          title=${`token ${row.ids[place]} · ${fields[field]} · ${isTrained ? "trained" : "not trained"}`}
          >${tokenText(row, place, texts) || CONTINUED}</span
        >`,
      );
  return html`<div class="tokens">${tokens}${row.length > row.ids.length ? " …" : ""}</div>`;
}

// A row as a job would train it. Only the beginning of a row that is longer than `data.max_length` is shown.
export function PreviewTokens({ row }) {
  const trained = row.tokens.filter((token) => token.trained).length;
  const size = row.truncated
    ? `${counted(row.length, "token")}, more than data.max_length; of the first ${number(row.tokens.length)}, `
    : `${counted(row.length, "token")}, `;
  const token = ({ id, text, trained: isTrained }, place) =>
    html`<span key=${place} class=${isTrained ? "t" : ""} title=${`token ${id}`}>${text || CONTINUED}</span>`;
  return html`<article>
    <header>
      <b>${row.where}${row.answer ? `, ${row.answer}` : ""}</b>${
        row.problem
          ? html`<span class="bad">${row.problem}</span>`
          : html`<span>${size}${number(trained)} trained</span>`
      }
    </header>
    <div class="tokens">${row.tokens.map(token)}${row.truncated ? " …" : ""}</div>
  </article>`;
}
