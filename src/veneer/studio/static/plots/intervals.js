// A drawing of the differences between runs and their bases, with their intervals.
import { html, useRef, useState } from "/static/library/preact.js";
import { link, number, spaced } from "/static/common/figures.js";
import { errorIn, useAnswers } from "/static/common/hooks.js";
import { DrawingDownloads, Fault, Segments, Swatch, colour } from "/static/common/parts.js";
import { apiPath } from "/static/common/requests.js";
import { Table, useNarrow } from "/static/common/table.js";

const TITLE = "Evaluation with intervals";

// A value of a measure. A share is shown in per cent.
export function measured(amount, isShare) {
  if (amount === null || amount === undefined) return "–";
  return isShare ? `${number(100 * amount, 1)} %` : number(amount, 3);
}

// The comparison of each run with its base, from its report: a dot for the difference, a line for its 95 % interval.
// `title` and `place` give the title and the number of the run with a name.
export function Intervals({ names, title, place }) {
  const answers = useAnswers(names.map((name) => apiPath("/studio/report", { name })));
  const [wanted, setWanted] = useState("");
  const drawing = useRef(null);
  const error = errorIn(answers);
  const reports = names.map((name, index) => ({ name, value: answers[index].value })).filter(({ value }) => value);
  const measures = [...new Set(reports.flatMap(({ value }) => value.report.comparison.map((row) => row.name)))];
  if (!measures.length)
    return (
      error &&
      html`<section class="card">
        <header><h2>${TITLE}</h2></header>
        <${Fault} error=${error} />
      </section>`
    );
  const measure = measures.includes(wanted) ? wanted : measures[0];
  const { rows, isShare, isLowerBetter } = rowsOf(reports, measure);
  const figure = (amount) => measured(amount, isShare);
  const cells = () => [
    ["run", "measure", "base", "adapter", "difference", "from", "to"],
    ...rows.map((row) => [title(row.name), measure, row.base, row.adapter, row.difference, row.low, row.high]),
  ];
  const shared = { rows, title, place, figure, measure: spaced(measure) };
  return html`<section class="card">
    <header>
      <h2>${TITLE}</h2>
      <${Segments}
        label="Measure"
        value=${measure}
        onChange=${setWanted}
        options=${measures.slice(0, 6).map((name) => [name, spaced(name)])}
      /><${DrawingDownloads} title=${TITLE} drawing=${drawing} file="evaluation" rows=${cells} />
    </header>
    <p class="hint">
      Adapter minus base, with the 95 % interval.${" "}${isLowerBetter ? "Left" : "Right"} of the line is better. Each
      report uses the evaluation rows of its run: do not compare runs with different rows.
    </p>
    <div><${Drawing} drawing=${drawing} ...${shared} /></div>
    <${Values} ...${shared} />
  </section>`;
}

// What the reports say about a measure: a row for each run that has an interval.
function rowsOf(reports, measure) {
  const rows = reports.flatMap(({ name, value }) => {
    const found = value.report.comparison.find((row) => row.name === measure);
    return found && found.low !== null ? [{ ...found, name, value }] : [];
  });
  const first = rows.length ? rows[0].value : { lower: [], shares: [] };
  return { rows, isLowerBetter: first.lower.includes(measure), isShare: first.shares.includes(measure) };
}

function Drawing({ drawing, rows, title, place, figure, measure }) {
  const isNarrow = useNarrow();
  const ends = [0, ...rows.flatMap((row) => [row.low, row.high])];
  const low = Math.min(...ends);
  const high = Math.max(...ends);
  const room = (high - low || 1) * 0.06;
  // On a narrow screen, the name of a run is above its line, so that letters keep their size.
  const [width, left, right, line] = isNarrow ? [330, 24, 24, 40] : [560, 150, 20, 26];
  const height = rows.length * line + 44;
  const px = (value) => left + ((value - low + room) / (high - low + 2 * room)) * (width - left - right);
  const inWords = rows.map(
    (row) => `${title(row.name)} ${figure(row.difference)}, from ${figure(row.low)} to ${figure(row.high)}`,
  );
  const tick = (value) =>
    html`<g key=${value}
      ><line
        x1=${px(value)}
        x2=${px(value)}
        y1="6"
        y2=${height - 34}
        stroke=${value === 0 ? "var(--quiet)" : "var(--line)"}
      /><text x=${px(value)} y=${height - 20} text-anchor="middle">${figure(value)}</text></g
    >`;
  const interval = (row, index) => {
    const y = (isNarrow ? 30 : 18) + index * line;
    const paint = colour(place(row.name));
    return html`<g key=${row.name}
      ><text x="0" y=${isNarrow ? y - 13 : y + 4} fill="var(--text)">${title(row.name).slice(0, 24)}</text
      ><line x1=${px(row.low)} x2=${px(row.high)} y1=${y} y2=${y} stroke=${paint} stroke-width="2" /><circle
        cx=${px(row.difference)}
        cy=${y}
        r="5"
        fill=${paint}
    /></g>`;
  };
  return html`<svg
    ref=${drawing}
    class="fit"
    viewBox=${`0 0 ${width} ${height}`}
    width="100%"
    role="img"
    aria-label=${`${measure}: ${inWords.join("; ")}`}
    font-size="11"
    fill="var(--quiet)"
  >
    ${[...new Set([low, 0, high])].map(tick)}
    <text x=${(left + width - right) / 2} y=${height - 2} text-anchor="middle">${`difference of ${measure}`}</text>
    ${rows.map(interval)}
  </svg>`;
}

const AMOUNTS = [
  ["base", "Base"],
  ["adapter", "Adapter"],
  ["difference", "Difference"],
  ["low", "95 % from"],
  ["high", "to"],
];

function Values({ rows, title, place, figure, measure }) {
  const columns = [
    {
      key: "run",
      title: "Run",
      kind: "lead",
      cell: (row) =>
        html`<${Swatch} place=${place(row.name)} /><a href=${link("report", row.name)}>${title(row.name)}</a>`,
    },
    ...AMOUNTS.map(([key, text]) => ({ key, title: text, kind: "num", cell: (row) => figure(row[key]) })),
  ];
  return html`<${Table} caption=${measure} rows=${rows} keyOf=${(row) => row.name} columns=${columns} />`;
}
