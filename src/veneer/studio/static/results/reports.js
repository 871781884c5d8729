// The page Evaluation: evaluations on files, and the runs that have a report.
import { html } from "/static/library/preact.js";
import { EvaluationForm } from "/static/results/evaluation_form.js";
import { last, link, loss, moment } from "/static/common/figures.js";
import { Head, Pill } from "/static/common/parts.js";
import { titleOf } from "/static/runs/run_state.js";
import { useStore } from "/static/common/store.js";
import { SortTable } from "/static/common/table.js";
import { Tasks } from "/static/results/tasks.js";

// The page of all evaluations. `run` is the name of the run whose adapter the form begins with.
export function Reports({ run }) {
  return html`<${Head} title="Evaluation" about="Base and adapter on the same rows" />
    <div class="stack">
      <${EvaluationForm} key=${run} run=${run} /><${Tasks}
        kind="evaluate"
        title="Evaluations on files"
        empty="No evaluations yet."
        about=${(task) => task.veneer.name.replace("evaluate ", "")}
      /><${RunsWithReports} />
    </div>`;
}

function RunsWithReports() {
  const { runs, jobs } = useStore();
  const reported = [...runs.values()].filter((run) => run.report);
  if (!reported.length)
    return html`<div class="card empty">
      <p>No run has a report of its own yet.</p>
      <p>
        A run writes one if it keeps rows for evaluation: set <code>data.held_out</code>, or give a file of rows to
        evaluate on.
      </p>
    </div>`;
  const columns = [
    {
      key: "name",
      title: "Run",
      kind: "lead",
      cell: (run) => html`<a class="name" href=${link("report", run.name)}>${titleOf(run, jobs)}</a>`,
      sort: (run) => titleOf(run, jobs),
    },
    { key: "state", title: "State", cell: (run) => html`<${Pill} state=${run.state} />`, sort: (run) => run.state },
    { key: "model", title: "Model", cell: (run) => last(run.model) || "–", sort: (run) => last(run.model) },
    {
      key: "best_loss",
      title: "Best evaluation loss",
      kind: "num",
      cell: (run) => loss(run.best_loss),
      sort: (run) => run.best_loss,
    },
    { key: "ended", title: "Ended", kind: "num", cell: (run) => moment(run.ended), sort: (run) => run.ended },
  ];
  return html`<section class="card flush">
    <header><h2>Reports of runs on their evaluation rows</h2></header>
    <${SortTable}
      caption="Runs with a report"
      columns=${columns}
      rows=${reported}
      keyOf=${(run) => run.name}
      first=${{ key: "ended", down: true }}
    />
  </section>`;
}
