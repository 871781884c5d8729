// The use of adapters of finished runs: the list of evaluations or exports, and one that has not succeeded.
import { html } from "/static/library/preact.js";
import { link, moment, number } from "/static/common/figures.js";
import { JobButtons, JobLog } from "/static/jobs/job_buttons.js";
import { Head, Pill } from "/static/common/parts.js";
import { titleOf } from "/static/runs/run_state.js";
import { useStore } from "/static/common/store.js";
import { SortTable } from "/static/common/table.js";

// The title of the run whose adapter a task uses.
export function subjectOf(task, runs, jobs) {
  const run = runs.get(task.veneer.of);
  return run ? titleOf(run, jobs) : task.veneer.of;
}

// A card with the tasks of a kind, "evaluate" or "export". `about` gives the text below the name of a task.
export function Tasks({ kind, title, empty, about }) {
  const { runs, jobs } = useStore();
  const tasks = [...jobs.values()].filter((job) => job.veneer.kind === kind);
  const subject = (task) => subjectOf(task, runs, jobs);
  const columns = [
    {
      key: "of",
      title: "Adapter",
      kind: "lead",
      cell: (task) =>
        html`<a class="name" href=${link("task", task.id)}>${subject(task)}</a>
          <div class="quiet">${about(task)}</div>`,
      sort: subject,
    },
    {
      key: "status",
      title: "State",
      cell: (task) => html`<${Pill} state=${task.veneer.status} />`,
      sort: (task) => task.veneer.status,
    },
    {
      key: "created_at",
      title: "Created",
      kind: "num",
      cell: (task) => moment(task.created_at),
      sort: (task) => task.created_at,
    },
    { key: "act", title: "", cell: (task) => html`<span class="tools"><${JobButtons} job=${task} /></span>` },
  ];
  return html`<section class="card flush">
    <header>
      <h2>${title}</h2>
      <span class="quiet">${number(tasks.length)}</span>
    </header>
    ${
      tasks.length
        ? html`<${SortTable}
            caption=${title}
            columns=${columns}
            rows=${tasks}
            keyOf=${(task) => task.id}
            first=${{ key: "created_at", down: true }}
          />`
        : html`<p class="empty">${empty}</p>`
    }
  </section>`;
}

// The page of a task that has not finished, or has failed.
export function TaskState({ task }) {
  const { runs, jobs } = useStore();
  const { kind, name, status, waiting, of: run } = task.veneer;
  const tools = html`<${Pill} state=${status} /><${JobButtons} job=${task} /><a class="btn" href=${link("run", run)}
      >Run</a
    >`;
  return html`<${Head}
      title=${`${kind === "export" ? "Export" : "Evaluation"} of ${subjectOf(task, runs, jobs)}`}
      about=${name}
      tools=${tools}
    />
    ${task.error && html`<pre class="banner" role="alert">${task.error.message}</pre>`}${
      waiting && html`<p class="warn">${waiting}</p>`
    }
    <section class="card">
      <header><h2>Job</h2></header>
      <${JobLog} job=${task} />
    </section>`;
}
