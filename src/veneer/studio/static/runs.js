// The pages of all runs in the folder, and of one run.
import { html, useEffect, useRef, useState } from "/static/preact.js";
import { apiPath, send, useAsked, useEach, useKept, useOnce, useStore } from "/static/lib.js";
import {
  clock,
  counted,
  date,
  day,
  duration,
  last,
  link,
  loss,
  moment,
  number,
  short,
  shown,
  size,
  word,
} from "/static/figures.js";
import {
  Banner,
  Bar,
  Button,
  Copy,
  Facts,
  Fault,
  Head,
  Pill,
  Said,
  Segments,
  SortTable,
  Sure,
  Table,
} from "/static/parts.js";
import { Plot, smoothed } from "/static/plot.js";

export function Runs() {
  const { runs, jobs } = useStore();
  const [words, setWords] = useKept("runs: words", ""),
    [state, setState] = useKept("runs: state", "all"),
    [picked, choose] = useKept("runs: chosen", []);
  const all = [...runs.values()],
    chosen = new Set(picked.filter((name) => runs.has(name)));
  const wanted = all.filter(
    (run) =>
      (state === "all" || stateOf(run, jobs) === state) &&
      `${title(run, jobs)} ${run.name} ${run.model} ${run.method} ${run.tags.join(" ")} ${run.text}`
        .toLowerCase()
        .includes(words.toLowerCase()),
  );
  const states = [
    "all",
    ...[
      "running",
      "finished",
      "stopped",
      "failed",
      "killed",
      "validating_files",
      "queued",
      "paused",
      "cancelled",
    ].filter((one) => one === state || all.some((run) => stateOf(run, jobs) === one)),
  ];
  const pick = (name) => {
    const next = new Set(chosen);
    if (!next.delete(name)) next.add(name);
    choose([...next]);
  };
  const columns = [
    [
      "chosen",
      "",
      (run) =>
        html`<input
          type="checkbox"
          aria-label=${`choose ${run.name} to compare`}
          checked=${chosen.has(run.name)}
          onChange=${() => pick(run.name)}
        />`,
      false,
      "pick",
    ],
    [
      "name",
      "Run",
      (run) =>
        html`<a class="name" href=${link("run", run.name)}>${title(run, jobs)}</a
          >${run.tags.map((tag) => html` <button key=${tag} class="tag" title="show runs with this tag" onClick=${() => setWords(tag)}>${tag}</button>`)}${run.text && html`<div class="noted" title=${run.text}>${run.text.split("\n")[0]}</div>`}`,
      (run) => title(run, jobs),
      "lead",
    ],
    ["state", "State", (run) => html`<${Pill} state=${stateOf(run, jobs)} />`, (run) => stateOf(run, jobs)],
    [
      "model",
      "Model",
      (run) =>
        html`<span title=${run.model}>${last(run.model) || "–"}</span>
          <div class="quiet">${run.method || ""}</div>`,
      (run) => `${last(run.model)} ${run.method}`,
    ],
    [
      "step",
      "Progress",
      (run) =>
        html`<div title=${`${run.step} of ${run.steps} steps`}>
          ${number(run.step)} <span class="quiet">/ ${number(run.steps)}</span
          ><${Bar} part=${run.steps ? run.step / run.steps : 0} label=${`${run.step} of ${run.steps} steps`} />
        </div>`,
      (run) => (run.steps ? run.step / run.steps : 0),
    ],
    ["loss", "Loss", (run) => loss(run.loss), (run) => run.loss, "num"],
    ["best_loss", "Best evaluation", (run) => loss(run.best_loss), (run) => run.best_loss, "num"],
    ["seconds", "Time", (run) => duration(run.seconds), (run) => run.seconds, "num"],
    [
      "begun",
      "Begun",
      (run) => html`<span title=${moment(run.begun)}>${day(run.begun)}</span>`,
      (run) => run.begun,
      "num",
    ],
  ];
  return html`<${Head} title="Runs" about=${`${number(all.length)} in the folder, including those from the command line`}>
      <a class="btn" aria-disabled=${chosen.size < 2} href=${chosen.size > 1 ? link("compare", "", { runs: JSON.stringify([...chosen]) }) : link("runs")}>Compare ${chosen.size > 1 ? chosen.size : ""}</a>
      <a class="btn main" href=${link("new")}>New job</a></${Head}>
    <div class="card flush"><header class="tools"><input type="search" placeholder="Search names, tags, notes, models" aria-label="Search names, tags, notes and models" value=${words} onInput=${(event) => setWords(event.target.value)} />
      <${Segments} label="State" value=${state} onChange=${setState} options=${states.map((one) => [one, one === "all" ? `all ${all.length}` : `${one.replace("_", " ")} ${all.filter((run) => stateOf(run, jobs) === one).length}`])} /></header>
    ${
      wanted.length
        ? html`<${SortTable}
            caption="Runs"
            columns=${columns}
            rows=${wanted}
            keyOf=${(run) => run.name}
            first=${{ key: "begun", down: true }}
          />`
        : html`<div class="empty">
            <p>${all.length ? "No run matches the search." : "There are no runs in this folder yet."}</p>
            ${all.length ? null : html`<p>Start one here, or with <code>veneer train --output</code> below the folder: it appears by itself.</p>`}
          </div>`
    }</div>`;
}

// The state in a run's folder is that of its last process: a job that was paused before its first step left an error there.
const stateOf = (run, jobs) => {
  const job = jobs.get(run.name);
  return job && !["succeeded", "failed"].includes(job.veneer.status) ? job.veneer.status : run.state;
};
export const title = (run, jobs) => {
  const job = jobs.get(run.name);
  return job ? job.veneer.name : run.name;
};

// The curves of the runs that have arrived, by their names, and their axis. After a change of the axis, the curves of the old
// one stay until all new ones are there.
export function useCurves(wanted, along) {
  const { runs } = useStore(),
    last = useRef({ along, curves: {} });
  const names = wanted.filter((name) => runs.has(name)),
    state = names.map((name) => `${runs.get(name).step}:${runs.get(name).evaluation_loss}`).join("|");
  const found = useEach(
    names.map((name) => apiPath("/studio/curves", { name, along })),
    state,
    700,
  );
  const curves = Object.fromEntries(
    names.flatMap((name, at) => {
      const { value } = found[at];
      return value ? [[name, { ...value.curves, metrics: value.metrics }]] : [];
    }),
  );
  if (names.every((name) => name in curves)) last.current = { along, curves };
  return {
    ...(last.current.along === along ? { along, curves } : last.current),
    error: (found.find((one) => one.error) || { error: null }).error,
  };
}
export const BLANK = { x: [], y: [] };
export const noneOf = (curves, error) => (curves ? undefined : error ? "The figures could not be loaded" : "Loading …");

export const ALONG = [
  ["step", "step"],
  ["tokens", "tokens"],
  ["time", "seconds"],
];

export function Run({ name }) {
  const { runs, jobs } = useStore();
  const run = runs.get(name),
    job = jobs.get(name);
  const [along, setAlong] = useState("step"),
    [weight, setWeight] = useState(0.9),
    [log, setLog] = useState(false);
  const drawn = useCurves([name], along),
    curves = drawn.curves[name];
  const { value: more, error } = useAsked(
    run ? apiPath("/studio/run", { name }) : null,
    run ? `${run.state}${run.step === run.steps}${Math.floor(run.step / 10)}${job ? job.status : ""}` : "",
  );
  // The job's buttons have the same place in both forms of the page, so that a pressed one stays when the run begins.
  if (!run)
    return html`<${Head} title=${job ? job.veneer.name : name} about=${job ? `${job.veneer.status === "queued" ? "The job waits for a worker" : job.veneer.status === "running" ? "The job's process has begun" : "The job is not running"}; its run has not written anything yet.` : "The folder has no run with this name."} >${job && html`<${Pill} state=${job.veneer.status} />`}${job && html`<${JobButtons} job=${job} />`}</${Head}>${job && job.error && html`<${Banner}>${job.error.message}</${Banner}>`}${job && html`<${JobCard} job=${job} />`}`;
  const left = run.step && run.state === "running" ? ((run.steps - run.step) * run.seconds) / run.step : null;
  // A curve has its line in the legend before its figures arrive, so that nothing moves then.
  const of = (key) => (curves ? curves[key] : BLANK),
    has = (key) =>
      curves ? curves[key].x.length > 0 : key === "evaluation" ? run.evaluation_loss !== null : run.step > 0;
  const line = (key, text, place = 0) => (has(key) ? [{ name: text, place, kind: "line", ...of(key) }] : []);
  const losses = has("loss")
    ? [
        ...(weight ? [{ name: "single steps", place: 0, kind: "raw", ...of("loss") }] : []),
        {
          name: weight ? "training, smoothed" : "training",
          place: 0,
          kind: "line",
          x: of("loss").x,
          y: weight ? smoothed(of("loss").y, weight) : of("loss").y,
        },
        ...(has("evaluation") ? [{ name: "evaluation", place: 1, kind: "points", ...of("evaluation") }] : []),
      ]
    : [];
  const planned = run.planned_memory_mb ?? (job && job.veneer.peak ? job.veneer.peak / 1e6 : null);
  const memory = [
    ...line("memory_mb", "measured"),
    ...(planned !== null && has("memory_mb")
      ? [{ name: "plan", place: 1, kind: "limit", x: of("memory_mb").x, y: of("memory_mb").x.map(() => planned) }]
      : []),
  ];
  const metrics = curves ? curves.metrics : {},
    groups = grouped(run.metrics.map((one) => [one, metrics[one] || BLANK])),
    reward = (metrics.reward || BLANK).y;
  const by = (ALONG.find((one) => one[0] === drawn.along) || ALONG[0])[1],
    none = noneOf(curves, drawn.error);
  const adapter = more ? more.adapter : null;
  return html`<${Head} title=${title(run, jobs)} about=${html`<span class="mono">${run.path}</span> <${Copy} text=${run.path} label="Copy path" />`}><${Pill} state=${stateOf(run, jobs)} />${job && html`<${JobButtons} job=${job} />`}${job && html`<a class="btn" href=${link("new", "", { like: name })}>New job like this</a>`}
      ${run.report && html`<a class="btn" href=${link("report", name)}>Evaluation</a>`}${answers(run, job) && html`<a class="btn" href=${link("report", "", { run: name })}>Evaluate</a><a class="btn" href=${link("export", "", { run: name })}>Export</a><a class="btn" aria-disabled=${!adapter} href=${adapter ? link("chat", "", { model: adapter }) : undefined}>Chat</a>`}</${Head}>
    <${Fault} error=${error || drawn.error} />${job && job.error && html`<${Banner}>${job.error.message}</${Banner}>`}
    <div class="stack"><div class="card"><${Facts} facts=${[["steps", number(run.step), run.steps ? `of ${number(run.steps)}` : ""], run.metrics.includes("reward") ? ["reward", short(reward[reward.length - 1]), `loss ${loss(run.loss)}`] : ["loss", loss(run.loss)], run.best_value === null ? ["best evaluation", loss(run.best_loss), run.best_step ? `step ${number(run.best_step)}` : ""] : [`best ${run.best_by}`, short(run.best_value), `step ${number(run.best_step)}, loss ${loss(run.best_loss)}`], left !== null ? ["time left", duration(left)] : ["time in steps", duration(run.seconds)], ["tokens", number(run.tokens), run.seconds ? `${number(run.tokens / run.seconds)}/s` : ""], ["peak memory", run.memory_mb === null ? "–" : size(run.memory_mb * 1e6), planned !== null ? `plan ${size(planned * 1e6)}` : ""], ["a step", run.step ? duration(run.seconds / run.step) : "–", run.planned_seconds !== null ? `plan ${duration(run.planned_seconds)}` : ""], ["model", last(run.model) || "–", run.method], ["peak rate", short(run.learning_rate)], ["begun", run.begun ? clock(run.begun) : "–", date(run.begun)]]} />
      ${run.state === "running" && html`<div><br /><${Bar} part=${run.step / run.steps} label=${`${run.step} of ${run.steps} steps`} /></div>`}</div>
    <div class="tools"><${Segments} label="Along" value=${along} onChange=${setAlong} options=${ALONG.map(([key, text]) => [key, text])} />
      <label>smoothing <input type="range" min="0" max="0.99" step="0.01" value=${weight} onInput=${(event) => setWeight(Number(event.target.value))} /> <span class="mono">${weight.toFixed(2)}</span></label>
      <label><input type="checkbox" checked=${log} onChange=${() => setLog(!log)} /> logarithmic loss</label><a class="btn small" href=${apiPath("/studio/curves", { name, format: "csv" })} download>every step as CSV</a></div>
    <div class="grid"><div class="wide"><${Plot} title="Loss" unit=${imitates(run) ? "nats per supervised token" : "of the objective"} series=${losses} along=${by} none=${none} log=${log} height=${300} file=${`${last(name)}-loss`} /></div>
      <${Plot} title="Learning rate" series=${line("learning_rate", "rate", 0)} along=${by} none=${none} file=${`${last(name)}-rate`} /><${Plot} title="Gradient norm" series=${line("grad_norm", "before clipping", 3)} along=${by} none=${none} file=${`${last(name)}-norm`} />
      <${Plot} title="Speed" unit="tokens per second" series=${line("tokens_per_second", "tokens/s", 2)} along=${by} none=${none} file=${`${last(name)}-speed`} /><${Plot} title="Memory" unit="MB at the peak" series=${memory} along=${by} none=${none} file=${`${last(name)}-memory`} />
      ${groups.map(([group, lines]) => html`<${Plot} key=${group} title=${plain(group)} unit="of the objective" series=${lines.map(([text, curve], place) => ({ name: text.replace(/_/g, " "), place, kind: "line", x: curve.x, y: weight ? smoothed(curve.y, weight) : curve.y }))} along=${by} none=${none} file=${`${last(name)}-${group}`} />`)}</div>
    ${more && more.samples.length > 0 && html`<${Samples} samples=${more.samples} />`}
    ${more && more.judged.length > 0 && html`<${Judged} judged=${more.judged} />`}
    ${more && html`<${Details} more=${more} run=${run} job=${job} />`}</div>`;
}

const imitates = (run) => ["sft", "pretraining"].includes(run.objective);
// Whether the run has made an adapter that answers. A reward model gives scores: it cannot chat, and is not evaluated or
// exported here.
const answers = (run, job) =>
  run.state === "finished" &&
  (!job || job.veneer.status === "succeeded") &&
  run.method !== "full" &&
  run.objective !== "reward";

// Metrics of an objective, grouped by the word before the slash: rewards/chosen and rewards/rejected share one plot.
function grouped(metrics) {
  const found = new Map();
  for (const [name, curve] of metrics) {
    const [group, ...rest] = name.split("/");
    found.set(group, [...(found.get(group) || []), [rest.join("/") || group, curve]]);
  }
  // Rewards come first.
  return [...found].sort(([one], [other]) => other.startsWith("reward") - one.startsWith("reward"));
}

const GROUPS = {
  rewards: "Rewards",
  reward: "Reward",
  logps: "Log-probabilities",
  kl: "KL",
  frac_reward_zero_std: "Share of groups whose rewards are all equal",
  reward_std: "Standard deviation of rewards",
};
const plain = (name) => GROUPS[name] || `${name[0].toUpperCase()}${name.slice(1).replace(/_/g, " ")}`;

// The answers of the model to the same prompts, at two steps side by side.
function Samples({ samples }) {
  const [chosen, choose] = useState({});
  const newest = samples.length - 1,
    right = Math.min(chosen.right ?? newest, newest),
    left = Math.min(chosen.left ?? 0, newest);
  const places = left === right ? [right] : [left, right];
  const pick = (side, value) =>
    html`<select
      value=${value}
      aria-label=${side === "left" ? "earlier step" : "later step"}
      onChange=${(event) => choose({ ...chosen, [side]: Number(event.target.value) })}
    >
      ${samples.map((one, place) => html`<option key=${one.step} value=${place} selected=${place === value}>step ${number(one.step)}</option>`)}
    </select>`;
  const columns = [
    ["prompt", "Prompt", (row) => samples[right].prompts[row], false, "said"],
    ...places.map((place) => [
      `${place}`,
      `step ${number(samples[place].step)}${samples[place].cut_short ? ", cut short for time" : ""}`,
      (row) => html`<${Said} text=${samples[place].answers[row]} />`,
      false,
      "said",
    ]),
  ];
  return html`<section class="card flush samples">
    <header>
      <h2>Samples during training</h2>
      <span class="quiet"
        >greedy answers to the same prompts${samples.length > 1 ? `, ${number(samples.length)} times` : ""}</span
      >${samples.length > 1 && html`<span class="tools">${pick("left", left)} and ${pick("right", right)}</span>`}
    </header>
    <${Table}
      caption="Answers during training"
      columns=${columns}
      rows=${samples[right].prompts.map((_, row) => row)}
      keyOf=${(row) => row}
    />
  </section>`;
}

// The answers with the highest and the lowest reward among those sampled in a step.
function Judged({ judged }) {
  const [chosen, choose] = useState(null);
  const newest = judged.length - 1,
    at = chosen === null ? newest : Math.min(chosen, newest),
    one = judged[at];
  const columns = [
    ["reward", "Reward", (row) => short(one.rewards[row]), false, "num"],
    ["prompt", "Prompt", (row) => one.prompts[row], false, "said"],
    ["answer", "Answer", (row) => html`<${Said} text=${one.shown[row]} />`, false, "said"],
  ];
  return html`<section class="card flush samples"><header><h2>Sampled answers</h2><span class="quiet">the highest and the lowest rewards of ${counted(one.answers, "answer")} (${counted(one.tokens, "token")})</span>
    <span class="tools"><${Button} off=${at === 0} onClick=${() => choose(at - 1)}>Earlier</${Button}><select value=${at} aria-label="step of the sampled answers" onChange=${(event) => choose(Number(event.target.value))}>${judged.map((found, place) => html`<option key=${found.step} value=${place} selected=${place === at}>step ${number(found.step)}</option>`)}</select><${Button} off=${at === newest} onClick=${() => choose(at + 1)}>Later</${Button}><${Button} off=${chosen === null} onClick=${() => choose(null)}>Newest</${Button}></span></header>
    ${one.failed.length > 0 && html`<div class="inset warn">${counted(one.failed.length, "answer")} ${one.failed.length === 1 ? "was" : "were"} left out because a reward failed: ${one.failed[0]}</div>`}
    <${Table} caption=${`Sampled answers of step ${one.step}`} columns=${columns} rows=${one.shown.map((_, row) => row)} keyOf=${(row) => row} /></section>`;
}

function Details({ more, run, job }) {
  const [all, setAll] = useState(false);
  const settings = more.settings.filter((one) => all || !one.default),
    chats = more.adapter && answers(run, job);
  return html`<div class="split">
    <div class="stack">
      <section class="card">
        <header>
          <h2>Log</h2>
          <span class="quiet">${counted(more.log.length, "line")}</span>
        </header>
        ${
          more.log.length
            ? html`<ul class="log">
                ${[...more.log].reverse().map((line, place) => html`<li key=${place}><time>${clock(line.time)}</time><span class=${line.level === "warning" ? "warn" : ""}>${line.message}</span></li>`)}
              </ul>`
            : html`<p class="quiet">The run has logged nothing but its steps.</p>`
        }
      </section>
      <${Notes} name=${run.name} notes=${run} />
      <section class="card">
        <header>
          <h2>run.lock</h2>
          ${more.lock && html`<${Copy} text=${JSON.stringify(more.lock, null, 2)} />`}
        </header>
        ${
          more.lock
            ? html`<p class="hint">
                  Everything that determines the bytes of the result.${" "}<code
                    >veneer reproduce ${word(run.path)}</code
                  >${" "}makes them again.
                </p>
                <br />
                <pre class="box" tabindex="0">
${JSON.stringify({ versions: more.lock.versions, hardware: more.lock.hardware, seed: more.lock.seed, steps: more.lock.steps, data: more.lock.data, result: more.lock.result }, null, 2)}</pre>`
            : html`<p class="quiet">A run writes it when it has finished.</p>`
        }
      </section>
    </div>
    <div class="stack">
      <section class="card flush">
        <header>
          <h2>Settings</h2>
          <label class="quiet"
            ><input type="checkbox" checked=${all} onChange=${() => setAll(!all)} /> show defaults</label
          >
        </header>
        <${Table}
          caption="Settings"
          columns=${[
            ["key", "Setting", (one) => one.key, false, "mono"],
            ["value", "Value", (one) => shown(one.value), false, "wrap mono"],
          ]}
          rows=${settings}
          keyOf=${(one) => one.key}
          mark=${(one) => (one.default ? "default" : "changed")}
        />
      </section>
      <section class="card">
        <header><h2>Checkpoints</h2></header>
        ${more.checkpoints.length ? html`<p class="tools">${more.checkpoints.map((step) => html`<a key=${step} class="tag" title="chat with this checkpoint" href=${chats ? link("chat", "", { model: `${more.adapter}-step-${step}` }) : undefined}>step ${number(step)}${step === run.best_step ? " · best" : ""}</a>`)}</p>` : html`<p class="quiet">No checkpoints are kept.</p>`}
      </section>
      ${job && html`<${JobCard} job=${job} />`}
    </div>
  </div>`;
}

const equal = (one, other) => JSON.stringify(one) === JSON.stringify(other);
function Notes({ name, notes }) {
  const [text, setText] = useState(notes.text),
    [tags, setTags] = useState(notes.tags.join(", ")),
    [said, say] = useState(""),
    [once, busy] = useOnce();
  const [known, know] = useState({ text: notes.text, tags: notes.tags }),
    [saved, store] = useState(null);
  const list = [
      ...new Set(
        tags
          .split(",")
          .map((tag) => tag.trim())
          .filter(Boolean),
      ),
    ],
    stored = { text: notes.text, tags: notes.tags };
  useEffect(() => {
    // Changes from another tab are shown, unless the user has typed something here.
    if (!equal(stored, known) && equal({ text, tags: list }, known)) {
      know(stored);
      setText(stored.text);
      setTags(stored.tags.join(", "));
      say("");
    }
  }, [JSON.stringify(stored)]);
  const save = () =>
    once(async () => {
      try {
        const found = await send(
          apiPath("/studio/notes", { name }),
          { text, tags: list, before: known },
          { method: "PUT" },
        );
        know(found);
        store(found);
        say("");
      } catch (error) {
        if (equal(stored, known)) {
          say(error.message);
          return;
        }
        know(stored);
        say(
          `Not saved, since they were changed elsewhere in the meantime, to “${[stored.tags.join(", "), stored.text].filter(Boolean).join(" – ")}”. Save again to replace them.`,
        );
      }
    });
  // Text that was typed after the last save is not saved.
  const fresh = saved && equal(saved, { text, tags: list });
  return html`<section class="card">
    <header>
      <h2>Notes</h2>
      <span class="quiet" role="status">${busy ? "Saving …" : said || (fresh ? "Saved" : "")}</span
      ><button class="btn small" aria-disabled=${busy} onClick=${save}>Save</button>
    </header>
    <div class="stack">
      <label class="field"
        ><span>Tags</span
        ><input
          value=${tags}
          placeholder="baseline, ablation"
          onInput=${(event) => setTags(event.target.value)} /></label
      ><label class="field"
        ><span>Text</span><textarea rows="3" value=${text} onInput=${(event) => setText(event.target.value)} />
      </label>
    </div>
  </section>`;
}

// A click is pending until the state of the job changes. Pause and Resume are one button, and no button is `disabled`, so that
// the keyboard focus stays where it is.
export function JobButtons({ job }) {
  const [error, fail] = useState(null),
    [sent, mark] = useState(null);
  const state = job.veneer.status,
    wanted = job.veneer.wanted,
    now = `${state} ${wanted}`;
  useEffect(() => mark(null), [now]);
  const act = (verb) => {
    mark(now);
    send(`/v1/fine_tuning/jobs/${job.id}/${verb}`, {}).then(
      () => fail(null),
      (problem) => {
        mark(null);
        fail(problem);
      },
    );
  };
  const waits = sent === now,
    paused = state === "paused",
    goes = ["queued", "running", "validating_files"].includes(state),
    still = waits || (goes && wanted !== "run");
  return html`${(goes || paused) && html`<button type="button" class=${`btn small ${paused ? "main" : ""}`} aria-disabled=${still} onClick=${() => still || act(paused ? "resume" : "pause")}>${paused ? "Resume" : wanted === "pause" ? "Pausing …" : "Pause"}</button>`}
  ${(goes || paused) && html`<${Sure} text=${wanted === "cancel" ? "Cancelling …" : "Cancel"} about=${`cancel ${job.veneer.name}`} disabled=${waits || wanted === "cancel"} onClick=${() => act("cancel")} />`}
  ${error && html`<span class="bad" role="alert">${error.message}</span>`}`;
}

// The messages of a job.
export function JobLog({ job }) {
  const { value } = useAsked(
    `/v1/fine_tuning/jobs/${job.id}/events?limit=100&type=message`,
    `${job.veneer.status}${job.veneer.wanted}`,
  );
  return html`<ul class="log">
    ${value && value.data.map((event) => html`<li key=${event.id}><time>${clock(event.created_at)}</time><span class=${{ error: "bad", warn: "warn" }[event.level] || ""}>${event.message}</span></li>`)}
  </ul>`;
}

function JobCard({ job }) {
  // A fully trained model has a link to the chat here. For an adapter, the top of the page has one.
  const whole = job.fine_tuned_model && job.veneer.settings.method === "full";
  return html`<section class="card">
    <header>
      <h2>Job</h2>
      <${Pill}
        state=${job.veneer.status}
      />${whole && html`<a class="btn small" href=${link("chat", "", { model: job.fine_tuned_model })}>Chat with ${job.fine_tuned_model}</a>`}<${Copy}
        text=${job.id}
        label="Copy id"
      />
    </header>
    ${job.veneer.waiting && html`<p class="warn">${job.veneer.waiting}</p>`}<${JobLog} job=${job} />
  </section>`;
}
