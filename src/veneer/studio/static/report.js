// The report of a run, drawn from the values in the HTML report next to the adapter.
import { html } from "/static/preact.js";
import { apiPath, useAsked, useStore } from "/static/lib.js";
import { last, link, loss, moment, number, short, shown } from "/static/figures.js";
import { Facts, Fault, Head, Loading, Pill, SortTable, Table } from "/static/parts.js";
import { Evaluate, Tasks, subject, tasksOf } from "/static/results.js";
import { title } from "/static/runs.js";

// Pieces of text, each with a flag that says whether the other text has the same piece.
function Marked({ parts, only = "mark" }) {
  if (parts === null || parts === undefined) return html`<span class="quiet">–</span>`;
  return html`<span class="diff"
    >${parts.map(([text, same], place) => (same ? html`<span key=${place}>${text}</span>` : only === "mark" ? html`<mark key=${place}>${text}</mark>` : html`<del key=${place}>${text}</del>`))}</span
  >`;
}

// The runs that have a report.
export function Reports({ run: wanted }) {
  const { runs, jobs } = useStore();
  const found = [...runs.values()].filter((run) => run.report);
  const columns = [
    [
      "name",
      "Run",
      (run) => html`<a class="name" href=${link("report", run.name)}>${title(run, jobs)}</a>`,
      (run) => title(run, jobs),
      "lead",
    ],
    ["state", "State", (run) => html`<${Pill} state=${run.state} />`, (run) => run.state],
    ["model", "Model", (run) => last(run.model) || "–", (run) => last(run.model)],
    ["best_loss", "Best evaluation loss", (run) => loss(run.best_loss), (run) => run.best_loss, "num"],
    ["ended", "Ended", (run) => moment(run.ended), (run) => run.ended, "num"],
  ];
  return html`<${Head} title="Evaluation" about="Base and adapter on the same rows" />
    <div class="stack">
      <${Evaluate} key=${wanted} run=${wanted} /><${Tasks}
        tasks=${tasksOf(jobs, "evaluate")}
        title="Evaluations on files"
        empty="No evaluations yet."
        about=${(task) => task.veneer.name.replace("evaluate ", "")}
        runs=${runs}
        jobs=${jobs}
      />${
        found.length
          ? html`<section class="card flush">
              <header><h2>Reports of runs on their evaluation rows</h2></header>
              <${SortTable}
                caption="Runs with a report"
                columns=${columns}
                rows=${found}
                keyOf=${(run) => run.name}
                first=${{ key: "ended", down: true }}
              />
            </section>`
          : html`<div class="card empty">
              <p>No run has a report of its own yet.</p>
              <p>
                A run writes one if it keeps rows for evaluation: set <code>data.held_out</code>, or give a file of rows
                to evaluate on.
              </p>
            </div>`
      }
    </div>`;
}

export function Report({ name }) {
  const { runs, jobs, connected } = useStore();
  const run = runs.get(name);
  const asked = useAsked(run ? apiPath("/studio/report", { name }) : null, run && run.state);
  if (!run)
    return html`<${Head}
      title=${`Evaluation of ${name}`}
      about=${connected ? "The folder has no run with this name." : "connecting …"}
    />`;
  return html`<${Found}
    name=${`Evaluation of ${title(run, jobs)}`}
    about=${asked.value ? asked.value.title : "The report that the run wrote"}
    run=${name}
    ...${asked}
  />`;
}

// The report of an evaluation job.
export function Evaluation({ task }) {
  const { runs, jobs } = useStore();
  const asked = useAsked(apiPath("/studio/report", { task: task.id }), task.veneer.status);
  return html`<${Found}
    name=${`Evaluation of ${subject(task, runs, jobs)}`}
    about=${`on ${task.veneer.name.replace("evaluate ", "")}`}
    run=${task.veneer.of}
    ...${asked}
  />`;
}

// The lists of rows that are shown. Reports of older versions of veneer have no list of rows that stayed the same.
const rowsOf = ({ report, worst, best, same = [] }) =>
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

function Found({ name, about, run, value, error }) {
  const report = value && value.report,
    share = (key) => value.shares.includes(key);
  const figure = (key, amount) =>
    amount === null || amount === undefined ? "–" : share(key) ? `${number(100 * amount, 1)} %` : number(amount, 3);
  const interval = (key, low, high) =>
    low === null || low === undefined
      ? ""
      : html` <small class="quiet">${figure(key, low)} to ${figure(key, high)}</small>`;
  return html`<${Head} title=${name} about=${about}><a class="btn" href=${link("run", run)}>Run</a></${Head}><${Fault} error=${error} />${!value && !error && html`<${Loading} />`}${
    report &&
    html`<div class="stack">
      <div class="card">
        <${Facts}
          facts=${[["rows", number(report.rows)], ["answered", number(value.answered)], ["seconds", number(report.seconds, 1)], report.gate ? ["gate", report.gate.verdict || shown(report.gate)] : null]}
        />
      </div>
      ${
        (report.warnings || []).length > 0 &&
        html`<section class="card">
          <header><h2>Keep in mind</h2></header>
          <ul class="told">
            ${report.warnings.map((line, place) => html`<li key=${place}>${line}</li>`)}
          </ul>
        </section>`
      }
      ${report.gate && html`<${Gate} gate=${report.gate} />`}
      <${Measures} report=${report} figure=${figure} interval=${interval} lower=${value.lower} />
      ${(report.suites || []).length > 0 && html`<${Suites} suites=${report.suites} figure=${figure} interval=${interval} />`}
      ${rowsOf(value).map(
        ([heading, rows]) =>
          rows.length > 0 &&
          html`<section key=${heading} class="card flush">
            <header><h2>${heading}</h2></header>
            <${Table}
              caption=${heading}
              rows=${rows}
              keyOf=${(row) => row.where}
              columns=${[
                ["row", "Row", (row) => `row ${row.where.split(":").pop()}`, false],
                ["question", "Question", (row) => row.question, false, "wrap"],
                ["reference", "Reference", (row) => html`<${Marked} parts=${row.reference} />`, false, "wrap"],
                ["base", "Base", (row) => html`<${Marked} parts=${row.base} only="del" />`, false, "wrap"],
                ["adapter", "Adapter", (row) => html`<${Marked} parts=${row.adapter} only="del" />`, false, "wrap"],
                [
                  "loss",
                  "Loss",
                  (row) => html`${short(row.losses[0])} <span class="quiet">→</span> ${short(row.losses[1])}`,
                  false,
                  "num",
                ],
              ]}
            />
          </section>`,
      )}
    </div>`
  }`;
}

// The gate's answer to each of its conditions.
function Gate({ gate }) {
  const state = { held: "finished", regressed: "failed", undecided: "stopped" };
  return html`<section class="card flush">
    <header>
      <h2>Gate</h2>
      <${Pill} state=${state[gate.verdict] || ""} text=${gate.verdict} />
    </header>
    <${Table}
      caption="Conditions of the gate"
      rows=${gate.conditions}
      keyOf=${(one) => one.name}
      columns=${[
        ["name", "Measure", (one) => one.name.replace(/_/g, " "), false, "name lead"],
        ["rule", "Must hold", (one) => one.rule, false, "wrap"],
        [
          "gain",
          "Gain",
          (one) => html`${short(one.gain)}${" "}<small class="quiet">${short(one.low)} to ${short(one.high)}</small>`,
          false,
          "num",
        ],
        ["answer", "Answer", (one) => html`<${Pill} state=${state[one.verdict] || ""} text=${one.verdict} />`, false],
      ]}
    />
  </section>`;
}

// What may have been forgotten.
function Suites({ suites, figure, interval }) {
  return html`<section class="card flush">
    <header><h2>What may have been forgotten</h2></header>
    <${Table}
      caption="Suites"
      rows=${suites}
      keyOf=${(one) => one.name}
      columns=${[
        ["name", "Suite", (one) => one.name, false, "name lead"],
        ["base", "Base", (one) => short(one.comparison.base), false, "num"],
        ["adapter", "Adapter", (one) => short(one.comparison.adapter), false, "num"],
        [
          "difference",
          "Difference",
          (one) =>
            html`${short(one.comparison.difference)}${" "}<small class="quiet"
                >${short(one.comparison.low)} to ${short(one.comparison.high)}</small
              >`,
          false,
          "num",
        ],
      ]}
    />
  </section>`;
}

function Measures({ report, figure, interval, lower }) {
  const rows = report.comparison.length
    ? report.comparison
    : report.base.map((one) => ({ name: one.name, base: one.value, low: one.low, high: one.high }));
  if (!rows.length) return null;
  const sure = (one) => one.difference !== undefined && one.low !== null && one.low * one.high > 0;
  const kind = (one) => (!sure(one) ? "" : one.difference < 0 === lower.includes(one.name) ? "good" : "bad");
  const columns = [
    ["name", "Measure", (one) => one.name.replace(/_/g, " "), false, "name lead"],
    ["base", "Base", (one) => figure(one.name, one.base), false, "num"],
    ["adapter", "Adapter", (one) => figure(one.name, one.adapter), false, "num"],
    [
      "difference",
      "Difference",
      (one) =>
        html`<span class=${kind(one)}
          >${one.difference === undefined ? "–" : figure(one.name, one.difference)}${interval(one.name, one.low, one.high)}</span
        >`,
      false,
      "num",
    ],
    [
      "p",
      "p",
      (one) => (one.p === null || one.p === undefined ? "–" : one.p < 1e-12 ? "< 1e-12" : short(one.p)),
      false,
      "num",
    ],
  ];
  return html`<section class="card flush">
    <header>
      <h2>Base and adapter</h2>
      <span class="quiet">differences with 95 % intervals</span>
    </header>
    <${Table} caption="Base and adapter" columns=${columns} rows=${rows} keyOf=${(one) => one.name} />
  </section>`;
}
