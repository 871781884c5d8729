// The page Sweeps: folders with several runs, the best of which is marked.
import { html } from "/static/library/preact.js";
import { MOST_COMPARED } from "/static/runs/compare.js";
import { comparison, counted, duration, last, link, loss, short, shown } from "/static/common/figures.js";
import { Head, Pill } from "/static/common/parts.js";
import { apiPath } from "/static/common/requests.js";
import { useDiffering } from "/static/runs/run_settings.js";
import { commonMetric } from "/static/runs/run_state.js";
import { useStore } from "/static/common/store.js";
import { SortTable } from "/static/common/table.js";

// The page of all sweeps.
export function Sweeps() {
  const { runs } = useStore();
  const folders = new Map();
  for (const run of runs.values()) {
    const folder = run.name.split("/").slice(0, -1).join("/");
    if (folder) folders.set(folder, [...(folders.get(folder) || []), run]);
  }
  const sweeps = [...folders].filter(([, members]) => members.length > 1);
  const card = ([folder, members]) => html`<${Sweep} key=${folder} folder=${folder} runs=${members} />`;
  return html`<${Head}
      title="Sweeps"
      about="Folders with several runs, such as those of veneer sweep and veneer compare"
    />
    ${
      sweeps.length
        ? html`<div class="stack">${sweeps.map(card)}</div>`
        : html`<div class="card empty">
            <p>There is no sweep in this folder.</p>
            <p>
              Start one with <code>veneer sweep --grid train.learning_rate=1e-4,1e-3 --output FOLDER/rates</code>; it
              appears here by itself.
            </p>
          </div>`
    }`;
}

// The runs from the best to the worst, how they are judged, and the best one: null if the first two are equal, or
// nothing was measured.
function ranking(runs) {
  const metric = commonMetric(runs);
  const isHigherBetter = metric ? runs[0].best_higher : false;
  const judged = (run) => (metric ? run.best_value : (run.best_loss ?? run.loss));
  const isBetter = (run, other) => {
    const [value, otherValue] = [judged(run), judged(other)];
    if (value === null || otherValue === null) return value !== null;
    return isHigherBetter ? value > otherValue : value < otherValue;
  };
  const ranked = [...runs].sort((run, other) => (isBetter(run, other) ? -1 : isBetter(other, run) ? 1 : 0));
  const best = judged(ranked[0]) !== null && isBetter(ranked[0], ranked[1]) ? ranked[0] : null;
  return { metric, isHigherBetter, judged, ranked, best };
}

function Sweep({ folder, runs }) {
  const { settings, keys, isLoading, error } = useDiffering(apiPath("/studio/differing", { folder }), runs.length);
  const rank = ranking(runs);
  const best = rank.ranked.slice(0, MOST_COMPARED).map((run) => run.name);
  const differing = isLoading ? "…" : keys.join(", ") || (error ? error.message : "nothing");
  return html`<section class="card flush">
    <header>
      <h2>${folder}</h2>
      <span class="quiet">${counted(runs.length, "run")}; differing: ${differing}</span
      ><a class="btn small" href=${comparison(best)}
        >${runs.length > MOST_COMPARED ? `Compare the best ${MOST_COMPARED}` : "Compare"}</a
      >
    </header>
    <${SortTable}
      caption=${`Runs of ${folder}`}
      columns=${columnsOf(rank, keys, settings)}
      rows=${runs}
      keyOf=${(run) => run.name}
      first=${rank.metric ? { key: "judged", down: rank.isHigherBetter } : { key: "best_loss", down: false }}
    />
  </section>`;
}

function columnsOf({ metric, judged, best }, keys, settings) {
  const setting = (run, key) => (settings[run.name] || {})[key];
  const seconds = (run) => (run.step ? run.seconds : null);
  return [
    {
      key: "name",
      title: "Run",
      kind: "lead",
      cell: (run) =>
        html`<a href=${link("run", run.name)}>${last(run.name)}</a
          >${run === best && html` <span class="tag good">best</span>`}`,
      sort: (run) => run.name,
    },
    ...keys.map((key) => ({
      key,
      title: last(key.replace(/\./g, "/")),
      kind: "num",
      cell: (run) => shown(setting(run, key)),
      sort: (run) => setting(run, key) ?? null,
    })),
    { key: "state", title: "State", cell: (run) => html`<${Pill} state=${run.state} />`, sort: (run) => run.state },
    ...(metric
      ? [{ key: "judged", title: `Best ${metric}`, kind: "num", cell: (run) => short(run.best_value), sort: judged }]
      : []),
    {
      key: "best_loss",
      title: "Best evaluation",
      kind: "num",
      cell: (run) => loss(run.best_loss),
      sort: metric ? (run) => run.best_loss : judged,
    },
    { key: "loss", title: "Last loss", kind: "num", cell: (run) => loss(run.loss), sort: (run) => run.loss },
    { key: "seconds", title: "Time", kind: "num", cell: (run) => duration(seconds(run)), sort: seconds },
  ];
}
