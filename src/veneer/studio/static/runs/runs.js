// The page of all runs in the folder.
import { html } from "/static/library/preact.js";
import { comparison, day, duration, last, link, loss, moment, number } from "/static/common/figures.js";
import { useKept } from "/static/common/hooks.js";
import { Head, Pill, Segments, StepsBar } from "/static/common/parts.js";
import { stateOf, titleOf } from "/static/runs/run_state.js";
import { useStore } from "/static/common/store.js";
import { SortTable } from "/static/common/table.js";

const STATES = [
  "running",
  "finished",
  "stopped",
  "failed",
  "killed",
  "validating_files",
  "queued",
  "paused",
  "cancelled",
];

// The page of all runs, with a search, a choice of their state, and boxes to choose those that are compared.
export function Runs() {
  const { runs, jobs } = useStore();
  const [words, setWords] = useKept("runs: words", "");
  const [state, setState] = useKept("runs: state", "all");
  const [picked, setPicked] = useKept("runs: chosen", []);
  const all = [...runs.values()];
  const chosen = new Set(picked.filter((name) => runs.has(name)));
  const isWanted = (run) => state === "all" || stateOf(run, jobs) === state;
  const found = all.filter((run) => isWanted(run) && matches(run, jobs, words));
  const pick = (name) => {
    const next = new Set(chosen);
    if (!next.delete(name)) next.add(name);
    setPicked([...next]);
  };
  const about = `${number(all.length)} in the folder, including those from the command line`;
  return html`<${Head} title="Runs" about=${about} tools=${html`<${HeadButtons} chosen=${chosen} />`} />
    <div class="card flush">
      <header class="tools">
        <input
          type="search"
          placeholder="Search names, tags, notes, models"
          aria-label="Search names, tags, notes and models"
          value=${words}
          onInput=${(event) => setWords(event.target.value)}
        />
        <${Segments} label="State" value=${state} onChange=${setState} options=${stateOptions(all, jobs, state)} />
      </header>
      ${
        found.length
          ? html`<${SortTable}
              caption="Runs"
              columns=${columnsOf({ jobs, chosen, pick, search: setWords })}
              rows=${found}
              keyOf=${(run) => run.name}
              first=${{ key: "begun", down: true }}
            />`
          : html`<${NoRuns} isEmpty=${!all.length} />`
      }
    </div>`;
}

const matches = (run, jobs, words) =>
  `${titleOf(run, jobs)} ${run.name} ${run.model} ${run.method} ${run.tags.join(" ")} ${run.text}`
    .toLowerCase()
    .includes(words.toLowerCase());

// The states that some run has, with the number of their runs. The chosen state stays, even if no run has it now.
function stateOptions(runs, jobs, chosen) {
  const count = (state) => runs.filter((run) => stateOf(run, jobs) === state).length;
  const present = STATES.filter((state) => state === chosen || count(state));
  return [
    ["all", `all ${runs.length}`],
    ...present.map((state) => [state, `${state.replace("_", " ")} ${count(state)}`]),
  ];
}

const HeadButtons = ({ chosen }) =>
  html`<a class="btn" aria-disabled=${chosen.size < 2} href=${chosen.size > 1 ? comparison([...chosen]) : link("runs")}
      >Compare ${chosen.size > 1 ? chosen.size : ""}</a
    >
    <a class="btn main" href=${link("new")}>New job</a>`;

const NoRuns = ({ isEmpty }) =>
  html`<div class="empty">
    <p>${isEmpty ? "There are no runs in this folder yet." : "No run matches the search."}</p>
    ${
      isEmpty &&
      html`<p>Start one here, or with <code>veneer train --output</code> below the folder: it appears by itself.</p>`
    }
  </div>`;

// The columns of the table. `pick` chooses a run or not, and `search` searches for a tag.
const columnsOf = ({ jobs, chosen, pick, search }) => [
  {
    key: "chosen",
    title: "",
    kind: "pick",
    cell: (run) =>
      html`<input
        type="checkbox"
        aria-label=${`choose ${run.name} to compare`}
        checked=${chosen.has(run.name)}
        onChange=${() => pick(run.name)}
      />`,
  },
  {
    key: "name",
    title: "Run",
    kind: "lead",
    cell: (run) => html`<${Name} run=${run} title=${titleOf(run, jobs)} search=${search} />`,
    sort: (run) => titleOf(run, jobs),
  },
  {
    key: "state",
    title: "State",
    cell: (run) => html`<${Pill} state=${stateOf(run, jobs)} />`,
    sort: (run) => stateOf(run, jobs),
  },
  {
    key: "model",
    title: "Model",
    cell: (run) =>
      html`<span title=${run.model}>${last(run.model) || "–"}</span>
        <div class="quiet">${run.method || ""}</div>`,
    sort: (run) => `${last(run.model)} ${run.method}`,
  },
  {
    key: "step",
    title: "Progress",
    cell: (run) =>
      html`<div title=${`${run.step} of ${run.steps} steps`}>
        ${number(run.step)} <span class="quiet">/ ${number(run.steps)}</span><${StepsBar} run=${run} />
      </div>`,
    sort: (run) => (run.steps ? run.step / run.steps : 0),
  },
  { key: "loss", title: "Loss", kind: "num", cell: (run) => loss(run.loss), sort: (run) => run.loss },
  {
    key: "best_loss",
    title: "Best evaluation",
    kind: "num",
    cell: (run) => loss(run.best_loss),
    sort: (run) => run.best_loss,
  },
  { key: "seconds", title: "Time", kind: "num", cell: (run) => duration(run.seconds), sort: (run) => run.seconds },
  {
    key: "begun",
    title: "Begun",
    kind: "num",
    cell: (run) => html`<span title=${moment(run.begun)}>${day(run.begun)}</span>`,
    sort: (run) => run.begun,
  },
];

// A run's link with its tags and the first line of its notes.
const Name = ({ run, title, search }) =>
  html`<a class="name" href=${link("run", run.name)}>${title}</a>${run.tags.map(
      (tag) =>
        html` <button key=${tag} class="tag" title="show runs with this tag" onClick=${() => search(tag)}>
          ${tag}
        </button>`,
    )}${run.text && html`<div class="noted" title=${run.text}>${run.text.split("\n")[0]}</div>`}`;
