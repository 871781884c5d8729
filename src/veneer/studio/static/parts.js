// The parts of pages: heads, facts, buttons and tables.
import { html, useEffect, useLayoutEffect, useState } from "/static/preact.js";
import { csvOf, download, number } from "/static/figures.js";

export const Pill = ({ state, text = state }) =>
  html`<span class=${`pill ${state}`}>${String(text).replace("_", " ")}</span>`;
export const Bar = ({ part, label }) =>
  html`<span class="bar" role="img" aria-label=${label}
    ><svg viewBox="0 0 100 1" preserveAspectRatio="none" aria-hidden="true">
      <rect width=${100 * Math.max(0, Math.min(1, part || 0))} height="1" /></svg
  ></span>`;
// An answer of a model in a cell. An empty answer is marked, since it would look like a missing one.
export const Said = ({ text }) =>
  text.trim()
    ? text
    : html`<span class="quiet"
        >${text === "" ? "(empty)" : `(only white space: ${JSON.stringify(text).slice(1, -1)})`}</span
      >`;
// A message at the top of a page if something differs from the user's request.
export const Banner = ({ children }) => html`<p class="banner" role="alert">${children}</p>`;
export const Fault = ({ error }) => (error ? html`<${Banner}>${error.message}</${Banner}>` : null);
// The beginning of a page. Its title becomes the title of the window.
export function Head({ title, about, children }) {
  useLayoutEffect(() => {
    document.title = `${title} · veneer studio`;
  }, [title]);
  return html`<div class="head">
    <div class="grow">
      <h1>${title}</h1>
      ${about && html`<p>${about}</p>`}
    </div>
    ${children}
  </div>`;
}
export const Facts = ({ facts }) =>
  html`<dl class="facts">
    ${facts.filter(Boolean).map(
      ([name, value, small]) =>
        html`<div key=${name}>
          <dt>${name}</dt>
          <dd>${value}${small && html` <small>${small}</small>`}</dd>
        </div>`,
    )}
  </dl>`;
export const colour = (place) => `var(--c${place % 8})`;
export const Swatch = ({ place }) =>
  html`<svg class="swatch" viewBox="0 0 11 11" aria-hidden="true"><rect rx="3" fill=${colour(place)} /></svg>`;
// Pages over plain HTTP from another machine have no clipboard in browsers, but can copy a selection.
async function copied(text) {
  if (navigator.clipboard) return navigator.clipboard.writeText(text);
  const area = document.createElement("textarea");
  area.value = text;
  document.body.append(area);
  area.select();
  document.execCommand("copy");
  area.remove();
}
export function Copy({ text, label = "Copy" }) {
  const [done, set] = useState(false);
  return html`<button
    type="button"
    class="btn small"
    onClick=${async () => {
      await copied(text);
      set(true);
      setTimeout(() => set(false), 1500);
    }}
  >
    ${done ? "Copied" : label}
  </button>`;
}
// A button that is inactive at times, such as after a click. If it were `disabled` or removed, it would lose the keyboard's
// focus.
export const Button = ({ off = false, onClick, children, ...rest }) =>
  html`<button
    type="button"
    class="btn small"
    ...${rest}
    aria-disabled=${off}
    onClick=${(event) => off || onClick(event)}
  >
    ${children}
  </button>`;
// A button for an action that cannot be undone: the first click asks, and a second one within 5 s confirms. Escape cancels.
export function Sure({ text, about, onClick, disabled = false }) {
  const [asked, set] = useState(false);
  useEffect(() => {
    if (!asked) return () => {};
    const wait = setTimeout(() => set(false), 5000);
    return () => clearTimeout(wait);
  }, [asked]);
  return html`<${Button} class="btn small danger" off=${disabled} aria-label=${asked ? `Really ${about}?` : about} onKeyDown=${(event) => event.key === "Escape" && set(false)} onClick=${(
    event,
  ) => {
    set(!asked);
    if (asked) onClick(event);
  }}>${asked ? `Really ${text.toLowerCase()}?` : text}</${Button}>`;
}
export function Segments({ label, value, options, onChange }) {
  return html`<div class="seg" role="group" aria-label=${label}>
    ${options.map(([key, text]) => html`<button key=${key} type="button" aria-pressed=${String(value === key)} onClick=${() => onChange(key)}>${text}</button>`)}
  </div>`;
}
export const Loading = () => html`<p class="card empty">Loading …</p>`;

// Whether the window is at most so many pixels wide.
export function useNarrow(pixels = 640) {
  const media = matchMedia(`(max-width: ${pixels}px)`);
  const [narrow, set] = useState(media.matches);
  useEffect(() => {
    const change = () => set(media.matches);
    change();
    media.addEventListener("change", change);
    return () => media.removeEventListener("change", change);
  }, [pixels]);
  return narrow;
}
const roomFor = (columns) => (columns.length > 5 ? 1000 : 640);

// A table. If the window is too narrow for its columns, it is a list of cards, with each value below the name of its column.
// Columns are [key, title, cell, value to sort by, class, value in a CSV if it differs]. On a card, "lead" is the heading, "pick"
// is next to it, and "wrap" and "said" take the whole width. `room` is the width of a window, in pixels, that is too narrow.
export function Table({
  columns,
  rows,
  keyOf,
  caption,
  head = (column) => column[1],
  order = () => undefined,
  mark = () => "",
  room = roomFor(columns),
}) {
  const narrow = useNarrow(room);
  if (narrow)
    return html`<ul class="cards" aria-label=${caption}>
      ${rows.map(
        (row, place) =>
          html`<li key=${keyOf(row)} class=${mark(row)}>
            ${columns.map(([key, title, cell, , kind]) => html`<div key=${key} class=${title ? kind || "" : `${kind || ""} act`}><span class="of">${title}</span>${cell(row, place)}</div>`)}
          </li>`,
      )}
    </ul>`;
  return html`<div class="scroll">
    <table>
      <caption class="visually-hidden">
        ${caption}
      </caption>
      <thead>
        <tr>
          ${columns.map((column) => html`<th key=${column[0]} scope="col" class=${column[4] || ""} aria-sort=${order(column)}>${head(column)}</th>`)}
        </tr>
      </thead>
      <tbody>
        ${rows.map(
          (row, place) =>
            html`<tr key=${keyOf(row)} class=${mark(row)}>
              ${columns.map(([key, , cell, , kind]) => html`<td key=${key} class=${kind || ""}>${cell(row, place)}</td>`)}
            </tr>`,
        )}
      </tbody>
    </table>
  </div>`;
}

// A table that a click on a column sorts. Cards have a list to choose the order from.
export function SortTable({ columns, rows, first, keyOf, caption, most = 200 }) {
  const [sort, set] = useState(first || { key: columns[0][0], down: false });
  const [count, more] = useState(most),
    narrow = useNarrow(roomFor(columns));
  const by = columns.find((column) => column[0] === sort.key) || columns[0];
  const valueOf = (row, [key, , , value]) => (value ? value(row) : row[key]) ?? null;
  // Names are sorted without regard to case.
  const placeOf = (row) => {
    const found = valueOf(row, by);
    return typeof found === "string" ? found.toLowerCase() : found;
  };
  const sorted = [...rows].sort((one, other) => {
    const [a, b] = [placeOf(one), placeOf(other)];
    if (a === null || b === null) return a === b ? 0 : a === null ? 1 : -1;
    return (a < b ? -1 : a > b ? 1 : 0) * (sort.down ? -1 : 1);
  });
  const turn = (key, kind) => set({ key, down: sort.key === key ? !sort.down : kind === "num" });
  const head = ([key, title, , sortable, kind]) =>
    sortable === false
      ? title
      : html`<button onClick=${() => turn(key, kind)}>
          ${title}${sort.key === key ? (sort.down ? " ↓" : " ↑") : ""}
        </button>`;
  const order = (column) => (sort.key === column[0] ? (sort.down ? "descending" : "ascending") : "none");
  const values = () => {
    const kept = columns.filter((column) => column[3] !== false && column[1]);
    return csvOf([
      kept.map((column) => column[1]),
      ...sorted.map((row) => kept.map((column) => (column[5] ? column[5](row) : valueOf(row, column)))),
    ]);
  };
  return html`${
      narrow &&
      html`<p class="tools inset">
        <label
          >sorted by${" "}<select value=${sort.key} onChange=${(event) => set({ ...sort, key: event.target.value })}>
            ${columns.filter((column) => column[3] !== false).map(([key, title]) => html`<option key=${key} value=${key} selected=${key === sort.key}>${title}</option>`)}
          </select></label
        ><button class="btn small" onClick=${() => set({ ...sort, down: !sort.down })}>
          ${sort.down ? "largest first" : "smallest first"}
        </button>
      </p>`
    }
    <${Table}
      columns=${columns}
      rows=${sorted.slice(0, count)}
      keyOf=${keyOf}
      caption=${caption}
      head=${head}
      order=${order}
    />
    ${sorted.length > count && html`<p class="empty"><button class="btn" onClick=${() => more(count + 500)}>Show more (${number(sorted.length - count)})</button></p>`}
    <p class="under">
      <button
        class="btn small"
        aria-label=${`${caption} as CSV`}
        onClick=${() => download(`${caption.toLowerCase().replace(/[^a-z0-9]+/g, "-")}.csv`, "text/csv", values())}
      >
        CSV
      </button>
    </p>`;
}
