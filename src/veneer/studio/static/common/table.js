// Tables, which become lists of cards in narrow windows.
import { html, useEffect, useState } from "/static/library/preact.js";
import { csvOf, download } from "/static/common/downloads.js";
import { number } from "/static/common/figures.js";
import { Options } from "/static/common/parts.js";

// Whether the window is at most so many pixels wide.
export function useNarrow(pixels = 640) {
  const media = matchMedia(`(max-width: ${pixels}px)`);
  const [isNarrow, setNarrow] = useState(media.matches);
  useEffect(() => {
    const change = () => setNarrow(media.matches);
    change();
    media.addEventListener("change", change);
    return () => media.removeEventListener("change", change);
  }, [pixels]);
  return isNarrow;
}

const widthFor = (columns) => (columns.length > 5 ? 1000 : 640);

// A table. If the window is too narrow for its columns, it is a list of cards, with each value below the name of its
// column. A column is an object with
//   key    a name that no other column has,
//   title  the text of its heading, empty for a column of buttons,
//   cell   the content of the cell of a row,
//   sort   the value of a row that it is sorted by; without it, no click sorts by the column,
//   csv    the value of a row in a CSV file, if it is not that of `sort`,
//   kind   its classes: "num" for numbers, "mono" for code. On a card, "lead" is the heading, "pick" is next to it, and
//          "wrap" and "said" take the whole width.
// `narrow` is the width of a window, in pixels, that is too narrow. `head` gives the content of a column's heading,
// `order` its direction of sorting, and `mark` the classes of a row.
export function Table({
  columns,
  rows,
  keyOf,
  caption,
  head = (column) => column.title,
  order = () => undefined,
  mark = () => "",
  narrow = widthFor(columns),
}) {
  if (useNarrow(narrow)) return html`<${Cards} ...${{ columns, rows, keyOf, caption, mark }} />`;
  const heading = (column) =>
    html`<th key=${column.key} scope="col" class=${column.kind || ""} aria-sort=${order(column)}>${head(column)}</th>`;
  return html`<div class="scroll">
    <table>
      <caption class="visually-hidden">
        ${caption}
      </caption>
      <thead>
        <tr>
          ${columns.map(heading)}
        </tr>
      </thead>
      <tbody>
        ${rows.map(
          (row, place) =>
            html`<tr key=${keyOf(row)} class=${mark(row)}>
              ${columns.map(({ key, cell, kind }) => html`<td key=${key} class=${kind || ""}>${cell(row, place)}</td>`)}
            </tr>`,
        )}
      </tbody>
    </table>
  </div>`;
}

function Cards({ columns, rows, keyOf, caption, mark }) {
  const field = ({ key, title, cell, kind }, row, place) =>
    html`<div key=${key} class=${title ? kind || "" : `${kind || ""} act`}>
      <span class="of">${title}</span>${cell(row, place)}
    </div>`;
  return html`<ul class="cards" aria-label=${caption}>
    ${rows.map(
      (row, place) =>
        html`<li key=${keyOf(row)} class=${mark(row)}>${columns.map((column) => field(column, row, place))}</li>`,
    )}
  </ul>`;
}

// Rows in the order of a column's values. Names are sorted without regard to case, and missing values come last.
function sortedBy(rows, valueOf, down) {
  const comparable = (row) => {
    const value = valueOf(row) ?? null;
    return typeof value === "string" ? value.toLowerCase() : value;
  };
  return [...rows].sort((row, other) => {
    const a = comparable(row);
    const b = comparable(other);
    if (a === null || b === null) return a === b ? 0 : a === null ? 1 : -1;
    return (a < b ? -1 : a > b ? 1 : 0) * (down ? -1 : 1);
  });
}

function saveCsv(caption, columns, rows) {
  const titled = columns.filter((column) => column.title);
  const cells = (row) => titled.map(({ sort, csv = sort }) => csv(row) ?? null);
  const name = caption.toLowerCase().replace(/[^a-z0-9]+/g, "-");
  download(`${name}.csv`, "text/csv", csvOf([titled.map((column) => column.title), ...rows.map(cells)]));
}

// A table that a click on a column sorts, and that can be saved as CSV. Cards have a list to choose the order from.
// `first` is the order in the beginning: the key of a column, and whether its largest values come first (`down`).
export function SortTable({ columns, rows, first, keyOf, caption, most = 200 }) {
  const [order, setOrder] = useState(first);
  const [count, setCount] = useState(most);
  const isNarrow = useNarrow(widthFor(columns));
  const sortable = columns.filter((column) => column.sort);
  const chosen = sortable.find((column) => column.key === order.key) || sortable[0];
  const sorted = sortedBy(rows, chosen.sort, order.down);
  const turn = ({ key, kind }) => setOrder({ key, down: order.key === key ? !order.down : kind === "num" });
  const arrow = (column) => (order.key === column.key ? (order.down ? " ↓" : " ↑") : "");
  const head = (column) =>
    column.sort ? html`<button onClick=${() => turn(column)}>${column.title}${arrow(column)}</button>` : column.title;
  const direction = (column) => (order.key === column.key ? (order.down ? "descending" : "ascending") : "none");
  return html`${isNarrow && html`<${OrderOfCards} columns=${sortable} order=${order} onChange=${setOrder} />`}
    <${Table}
      columns=${columns}
      rows=${sorted.slice(0, count)}
      keyOf=${keyOf}
      caption=${caption}
      head=${head}
      order=${direction}
    />
    ${
      sorted.length > count &&
      html`<p class="empty">
        <button class="btn" onClick=${() => setCount(count + 500)}>Show more (${number(sorted.length - count)})</button>
      </p>`
    }
    <p class="under">
      <button class="btn small" aria-label=${`${caption} as CSV`} onClick=${() => saveCsv(caption, sortable, sorted)}>
        CSV
      </button>
    </p>`;
}

const OrderOfCards = ({ columns, order, onChange }) =>
  html`<p class="tools inset">
    <label
      >sorted by${" "}<select value=${order.key} onChange=${(event) => onChange({ ...order, key: event.target.value })}>
        <${Options} options=${columns.map(({ key, title }) => [key, title])} value=${order.key} /></select></label
    ><button class="btn small" onClick=${() => onChange({ ...order, down: !order.down })}>
      ${order.down ? "largest first" : "smallest first"}
    </button>
  </p>`;
