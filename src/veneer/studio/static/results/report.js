// One report, drawn from the values in the HTML report next to the adapter.
import { html } from "/static/library/preact.js";
import { link, number, short, shown, spaced } from "/static/common/figures.js";
import { useAnswer } from "/static/common/hooks.js";
import { measured } from "/static/plots/intervals.js";
import { Facts, Fault, Head, Loading, Pill } from "/static/common/parts.js";
import { apiPath } from "/static/common/requests.js";
import { titleOf } from "/static/runs/run_state.js";
import { useStore } from "/static/common/store.js";
import { Table } from "/static/common/table.js";
import { subjectOf } from "/static/results/tasks.js";

// The report that a run has written.
export function Report({ name }) {
  const { runs, jobs, connected } = useStore();
  const run = runs.get(name);
  const answer = useAnswer(run ? apiPath("/studio/report", { name }) : null, run && run.state);
  if (!run)
    return html`<${Head}
      title=${`Evaluation of ${name}`}
      about=${connected ? "The folder has no run with this name." : "connecting …"}
    />`;
  return html`<${ReportPage}
    title=${`Evaluation of ${titleOf(run, jobs)}`}
    about=${answer.value ? answer.value.title : "The report that the run wrote"}
    run=${name}
    ...${answer}
  />`;
}

// The report of an evaluation job.
export function Evaluation({ task }) {
  const { runs, jobs } = useStore();
  const answer = useAnswer(apiPath("/studio/report", { task: task.id }), task.veneer.status);
  return html`<${ReportPage}
    title=${`Evaluation of ${subjectOf(task, runs, jobs)}`}
    about=${`on ${task.veneer.name.replace("evaluate ", "")}`}
    run=${task.veneer.of}
    ...${answer}
  />`;
}

function ReportPage({ title, about, run, value, error }) {
  return html`<${Head}
      title=${title}
      about=${about}
      tools=${html`<a class="btn" href=${link("run", run)}>Run</a>`}
    /><${Fault} error=${error} />${!value && !error && html`<${Loading} />`}${
      value && value.report && html`<${Content} value=${value} />`
    }`;
}

function Content({ value }) {
  const { report } = value;
  const { gate } = report;
  const warnings = report.warnings || [];
  const suites = report.suites || [];
  const facts = [
    ["rows", number(report.rows)],
    ["answered", number(value.answered)],
    ["seconds", number(report.seconds, 1)],
    gate ? ["gate", gate.verdict || shown(gate)] : null,
  ];
  return html`<div class="stack">
    <div class="card"><${Facts} facts=${facts} /></div>
    ${
      warnings.length > 0 &&
      html`<section class="card">
        <header><h2>Keep in mind</h2></header>
        <ul class="told">
          ${warnings.map((line, place) => html`<li key=${place}>${line}</li>`)}
        </ul>
      </section>`
    }
    ${gate && html`<${Gate} gate=${gate} />`}
    <${Measures} report=${report} shares=${value.shares} lower=${value.lower} />
    ${suites.length > 0 && html`<${Suites} suites=${suites} />`}
    ${listsOf(value).map(
      ([heading, rows]) => rows.length > 0 && html`<${Rows} key=${heading} heading=${heading} rows=${rows} />`,
    )}
  </div>`;
}

const STATES = { held: "finished", regressed: "failed", undecided: "stopped" };
const Verdict = ({ verdict }) => html`<${Pill} state=${STATES[verdict] || ""} text=${verdict} />`;

// A difference with its interval.
const Difference = ({ value, low, high }) =>
  html`${short(value)}${" "}<small class="quiet">${short(low)} to ${short(high)}</small>`;

// The gate's answer to each of its conditions.
function Gate({ gate }) {
  const columns = [
    { key: "name", title: "Measure", kind: "name lead", cell: ({ name }) => spaced(name) },
    { key: "rule", title: "Must hold", kind: "wrap", cell: ({ rule }) => rule },
    {
      key: "gain",
      title: "Gain",
      kind: "num",
      cell: ({ gain, low, high }) => html`<${Difference} value=${gain} low=${low} high=${high} />`,
    },
    { key: "answer", title: "Answer", cell: ({ verdict }) => html`<${Verdict} verdict=${verdict} />` },
  ];
  return html`<section class="card flush">
    <header>
      <h2>Gate</h2>
      <${Verdict} verdict=${gate.verdict} />
    </header>
    <${Table} caption="Conditions of the gate" rows=${gate.conditions} keyOf=${({ name }) => name} columns=${columns} />
  </section>`;
}

// What may have been forgotten.
function Suites({ suites }) {
  const columns = [
    { key: "name", title: "Suite", kind: "name lead", cell: ({ name }) => name },
    { key: "base", title: "Base", kind: "num", cell: ({ comparison }) => short(comparison.base) },
    { key: "adapter", title: "Adapter", kind: "num", cell: ({ comparison }) => short(comparison.adapter) },
    {
      key: "difference",
      title: "Difference",
      kind: "num",
      cell: ({ comparison: { difference, low, high } }) =>
        html`<${Difference} value=${difference} low=${low} high=${high} />`,
    },
  ];
  return html`<section class="card flush">
    <header><h2>What may have been forgotten</h2></header>
    <${Table} caption="Suites" rows=${suites} keyOf=${({ name }) => name} columns=${columns} />
  </section>`;
}

// Base and adapter by each measure. A difference is "good" or "bad" if its interval does not contain 0.
function Measures({ report, shares, lower }) {
  const rows = report.comparison.length
    ? report.comparison
    : report.base.map(({ name, value, low, high }) => ({ name, base: value, low, high }));
  if (!rows.length) return null;
  const figure = (row, amount) => measured(amount, shares.includes(row.name));
  const quality = ({ name, difference, low, high }) => {
    const isSure = difference !== undefined && low !== null && low * high > 0;
    if (!isSure) return "";
    return difference < 0 === lower.includes(name) ? "good" : "bad";
  };
  const interval = (row) =>
    row.low === null || row.low === undefined
      ? ""
      : html` <small class="quiet">${figure(row, row.low)} to ${figure(row, row.high)}</small>`;
  const columns = [
    { key: "name", title: "Measure", kind: "name lead", cell: (row) => spaced(row.name) },
    { key: "base", title: "Base", kind: "num", cell: (row) => figure(row, row.base) },
    { key: "adapter", title: "Adapter", kind: "num", cell: (row) => figure(row, row.adapter) },
    {
      key: "difference",
      title: "Difference",
      kind: "num",
      cell: (row) => html`<span class=${quality(row)}>${figure(row, row.difference)}${interval(row)}</span>`,
    },
    { key: "p", title: "p", kind: "num", cell: ({ p }) => (p !== null && p < 1e-12 ? "< 1e-12" : short(p)) },
  ];
  return html`<section class="card flush">
    <header>
      <h2>Base and adapter</h2>
      <span class="quiet">differences with 95 % intervals</span>
    </header>
    <${Table} caption="Base and adapter" columns=${columns} rows=${rows} keyOf=${(row) => row.name} />
  </section>`;
}

// The lists of rows that are shown. Reports of older versions of veneer have no list of rows that stayed the same.
const listsOf = ({ report, worst, best, same = [] }) =>
  report.comparison.length
    ? [
        ["The rows that became worse", worst],
        ["The rows that became better", best],
        ["Rows that became neither better nor worse", same],
      ]
    : [
        ["The worst rows", worst],
        ["The best rows", best],
      ];

function Rows({ heading, rows }) {
  const columns = [
    { key: "row", title: "Row", cell: ({ where }) => `row ${where.split(":").pop()}` },
    { key: "question", title: "Question", kind: "wrap", cell: ({ question }) => question },
    {
      key: "reference",
      title: "Reference",
      kind: "wrap",
      cell: ({ reference }) => html`<${Marked} parts=${reference} mark="mark" />`,
    },
    { key: "base", title: "Base", kind: "wrap", cell: ({ base }) => html`<${Marked} parts=${base} mark="del" />` },
    {
      key: "adapter",
      title: "Adapter",
      kind: "wrap",
      cell: ({ adapter }) => html`<${Marked} parts=${adapter} mark="del" />`,
    },
    {
      key: "loss",
      title: "Loss",
      kind: "num",
      cell: ({ losses }) => html`${short(losses[0])} <span class="quiet">→</span> ${short(losses[1])}`,
    },
  ];
  return html`<section class="card flush">
    <header><h2>${heading}</h2></header>
    <${Table} caption=${heading} rows=${rows} keyOf=${({ where }) => where} columns=${columns} />
  </section>`;
}

// Pieces of text, each with a flag that says whether the other text has the same piece. Those that it lacks are marked,
// or with `mark="del"` struck out.
function Marked({ parts, mark }) {
  if (parts === null || parts === undefined) return html`<span class="quiet">–</span>`;
  const piece = ([text, isSame], place) => {
    if (isSame) return html`<span key=${place}>${text}</span>`;
    return mark === "del" ? html`<del key=${place}>${text}</del>` : html`<mark key=${place}>${text}</mark>`;
  };
  return html`<span class="diff">${parts.map(piece)}</span>`;
}
