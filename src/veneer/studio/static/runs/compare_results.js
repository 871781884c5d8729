// The tables of runs that are compared: their results, and the settings that differ.
import { html } from "/static/library/preact.js";
import { duration, link, loss, number, short, shown, size } from "/static/common/figures.js";
import { Pill, Swatch } from "/static/common/parts.js";
import { commonMetric } from "/static/runs/run_state.js";
import { SortTable, Table } from "/static/common/table.js";

// A column of numbers whose cell shows the value that it is sorted by.
const numbers = (key, title, format, sort = (run) => run[key]) => ({
  key,
  title,
  kind: "num",
  cell: (run) => format(sort(run)),
  sort,
});

// The results of the runs. `title` gives the title of the run with a name.
export function Results({ runs, title }) {
  const metric = commonMetric(runs);
  const columns = [
    {
      key: "name",
      title: "Run",
      kind: "lead",
      cell: (run) =>
        html`<${Swatch} place=${runs.indexOf(run)} /><a href=${link("run", run.name)}>${title(run.name)}</a>`,
      sort: (run) => title(run.name),
    },
    { key: "state", title: "State", cell: (run) => html`<${Pill} state=${run.state} />`, sort: (run) => run.state },
    ...(metric ? [numbers("best_value", `Best ${metric}`, short)] : []),
    numbers("best_loss", "Best evaluation", loss),
    numbers("loss", "Last loss", loss),
    numbers("tokens", "Tokens", number),
    numbers("seconds", "Time", duration),
    numbers("memory_mb", "Memory", (memory) => size(memory === null ? null : memory * 1e6)),
  ];
  return html`<section class="card flush">
    <header><h2>Results</h2></header>
    <${SortTable}
      caption="Runs that are compared"
      keyOf=${(run) => run.name}
      rows=${runs}
      columns=${columns}
      first=${{ key: "name", down: false }}
    />
  </section>`;
}

// The settings in which the runs differ, as of `useDiffering`.
export function ComparedSettings({ names, title, settings, keys, isLoading, error }) {
  const columns = [
    { key: "key", title: "Setting", kind: "mono lead", cell: (key) => key },
    ...names.map((name) => ({
      key: name,
      title: title(name),
      kind: "mono fitted",
      cell: (key) => shown((settings[name] || {})[key]),
    })),
  ];
  const head = (column) =>
    column.key === "key" ? column.title : html`<${Swatch} place=${names.indexOf(column.key)} />${column.title}`;
  const message = isLoading ? "Loading …" : error ? "The settings could not be loaded." : "No setting differs.";
  return html`<section class="card flush">
    <header><h2>Settings that differ</h2></header>
    ${
      keys.length
        ? html`<${Table}
            caption="Settings that differ"
            columns=${columns}
            rows=${keys}
            keyOf=${(key) => key}
            head=${head}
          />`
        : html`<p class="empty">${message}</p>`
    }
  </section>`;
}
