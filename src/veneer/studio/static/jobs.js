// The form of a new job, whose plan follows the input, and the queue.
import { html, useEffect, useMemo, useState } from "/static/preact.js";
import { asking, letGo, make, send, useAct, useAsked, useKept, useOptions, useStore } from "/static/lib.js";
import { counted, duration, link, loss, number, numeral, short, shown, size } from "/static/figures.js";
import { Banner, Bar, Button, Copy, Facts, Fault, Head, Pill, Table } from "/static/parts.js";
import { PreviewTokens, Upload, useFiles } from "/static/data.js";
import { FIRST, OBJECTIVES, Rewards, Setting, isEmpty, named, objectiveOf, rewardsOf } from "/static/objectives.js";
import { JobButtons } from "/static/runs.js";

const COMMON = [
  ["train.epochs", "Epochs", "Passes over the rows. Empty: veneer's default."],
  ["train.steps", "Steps", "Optimiser steps, instead of epochs."],
  ["train.learning_rate", "Learning rate", "The peak rate. Empty: chosen for this model and method."],
  ["train.examples_per_step", "Rows per step", "Rows in one optimiser step, over all micro-batches."],
  ["lora.rank", "Rank", "The inner size of the adapter. Empty: chosen by how much the rows have to teach."],
  ["data.held_out", "Held out", "Share of the rows kept for the evaluation loss and the report, such as 0.1."],
  ["train.from_adapter", "Continue from", "An adapter of this folder to train further.", "adapters"],
];

// The value of typed text. For a setting that is a string, text that looks like a number stays a string.
function typed(text, isText) {
  const value = text.trim();
  if (value === "") return undefined;
  if (isText && value !== "null") return value;
  try {
    return JSON.parse(value, finite);
  } catch {
    return value;
  }
}
// A number that overflows cannot be sent as JSON. It stays a string, which the studio refuses by its value.
function finite(key, value) {
  if (typeof value === "number" && !Number.isFinite(value)) throw new RangeError(key);
  return value;
}

// The input that an objective still needs; an empty string if nothing is missing.
function missingOf({ objective, rewards, settings }) {
  if (objective === "grpo" && !rewards.length) return "Add a reward";
  if (objective === "grpo" && rewards.some(isEmpty)) return "Fill in every reward, or remove it";
  if (objective === "distillation" && !settings["distillation.teacher"] && !settings["distillation.teacher_adapter"])
    return "Choose a teacher, or a teacher's adapter";
  return "";
}

// The request of a job, for the form. A mapping becomes one field per key, unless it is the value of a known setting.
function likeOf(job, known) {
  const { method, objective = "sft", rewards = [], ...rest } = job.veneer.settings,
    settings = {};
  const lay = (values, prefix) => {
    for (const [key, value] of Object.entries(values)) {
      if (value !== null && typeof value === "object" && !Array.isArray(value) && !known.has(prefix + key))
        lay(value, `${prefix}${key}.`);
      else if (value !== null) settings[prefix + key] = shown(value);
    }
  };
  lay(rest, "");
  const { "train.seed": seed = "", ...others } = settings;
  return {
    model: job.model,
    file: job.training_file,
    validation: job.validation_file || "",
    method,
    objective,
    settings: others,
    seed,
    ...(rewards.length ? { rewards: rewardsOf(job, rewards) } : {}),
  };
}

export function NewJob({ query }) {
  const { value: options, error: missing } = useOptions();
  const [files, refresh, absent] = useFiles();
  const draft = `new ${JSON.stringify(query)}`;
  const [form, set] = useKept(draft, {
    model: "",
    file: query.file || "",
    validation: "",
    method: "qlora",
    objective: query.objective || "sft",
    suffix: "",
    seed: "",
    priority: "0",
    settings: {},
    rewards: [FIRST],
  });
  const [plan, setPlan] = useState({}),
    [rows, setRows] = useState(null),
    [more, setMore] = useState("");
  useEffect(() => {
    if (options && !form.model && options.models.length) set((old) => ({ ...old, model: options.models[0] }));
  }, [options]);
  useEffect(() => {
    if (files && !form.file) {
      const ready = files.find((file) => file.status === "processed");
      if (ready) set((old) => ({ ...old, file: ready.id }));
    }
  }, [files]);
  const { jobs, connected } = useStore(),
    model = query.like ? jobs.get(query.like) : undefined;
  useEffect(() => {
    if (model && options)
      set((old) =>
        old.like === query.like
          ? old
          : { ...old, ...likeOf(model, new Set(options.settings.map((one) => one.key))), like: query.like },
      );
  }, [Boolean(model), Boolean(options)]);
  const change = (key) => (event) => set({ ...form, [key]: event.target.value });
  const setting = (key) => (event) => {
    const settings = { ...form.settings, [key]: event.target.value };
    if (event.target.value === "") delete settings[key];
    set({ ...form, settings });
  };
  // A setting of another objective would be refused.
  const aim = (event) => {
    const foreign = OBJECTIVES.filter((one) => one[0] !== event.target.value).flatMap((one) =>
      one[3].map((own) => own[0]),
    );
    set({
      ...form,
      objective: event.target.value,
      settings: Object.fromEntries(Object.entries(form.settings).filter(([key]) => !foreign.includes(key))),
    });
  };
  const refused = (files || []).find((file) => file.id === form.file && file.status === "error");
  const fields = [...COMMON, ...objectiveOf(form.objective)[3]];
  const texts = new Set(((options || {}).settings || []).filter((one) => one.is_text).map((one) => one.key));
  const body = useMemo(
    () => ({
      model: form.model,
      training_file: form.file,
      ...(form.validation ? { validation_file: form.validation } : {}),
      ...(form.suffix ? { suffix: form.suffix } : {}),
      ...(form.seed !== "" ? { seed: numeral(form.seed) } : {}),
      veneer: {
        method: form.method,
        objective: form.objective,
        priority: Number(form.priority) || 0,
        settings: {
          ...Object.fromEntries(
            Object.entries(form.settings)
              .map(([key, value]) => [key, typed(value, texts.has(key))])
              .filter(([, value]) => value !== undefined),
          ),
          ...(form.objective === "grpo" ? { rewards: named(form.rewards) } : {}),
        },
      },
    }),
    [form, options],
  );
  // The settings that the preview needs to show rows in the form of the objective.
  const own = JSON.stringify(
    Object.fromEntries(
      Object.entries(body.veneer.settings).filter(([key]) => key === "rewards" || key.startsWith(`${form.objective}.`)),
    ),
  );
  const known = JSON.stringify(body),
    ready =
      Boolean(
        options &&
        form.model &&
        form.file &&
        files &&
        files.some((file) => file.id === form.file && file.status === "processed"),
      ) && !missingOf(form);
  useEffect(() => {
    if (!ready) return () => {};
    // The studio makes one plan at a time, and gives up a plan whose request was aborted.
    const stop = new AbortController();
    setPlan((old) => ({ ...old, waiting: true }));
    const plans = asking(
      () => send("/v1/fine_tuning/jobs/estimate", body, { signal: stop.signal }),
      ({ value, error: problem }) => setPlan(problem ? { problem } : { found: value }),
      { begin: 450 },
    );
    return () => {
      plans.leave();
      stop.abort();
    };
  }, [known, ready]);
  useEffect(() => {
    if (!ready) return () => {};
    const asked = {
      model: form.model,
      training_file: form.file,
      veneer: { method: form.method, objective: form.objective, settings: JSON.parse(own) },
      first: 0,
      count: 2,
    };
    return asking(
      () => send("/v1/fine_tuning/jobs/preview", asked),
      ({ value, error: problem }) => setRows(problem ? null : value.rows),
    ).leave;
  }, [form.model, form.file, form.objective, form.method, own, ready]);
  const [create, busy, error] = useAct(async () => {
    const job = await make("/v1/fine_tuning/jobs", body);
    letGo(draft);
    location.hash = link("run", job.id);
  });
  // The file or the job in the address may have been deleted. The form then begins without it.
  const told = connected && options && files,
    given = query.file || (model && model.training_file),
    lost = told && given && form.file === given && !files.some((file) => file.id === given);
  const extra = Object.keys(form.settings).filter((key) => !fields.some((one) => one[0] === key));
  const about = (key) => (((options || {}).settings || []).find((one) => one.key === key) || {}).text;
  return html`<${Head} title="New job" about="veneer chooses the values of empty fields, and shows them in the plan" /><${Fault} error=${error || missing || absent} />${told && query.like && !model && html`<${Banner}>The job ${query.like} does not exist, or was deleted: this is the form of a new one.</${Banner}>`}${lost && html`<${Banner}>The file of rows to train on does not exist, or was deleted: choose another one.</${Banner}>`}<form onSubmit=${(
    event,
  ) => {
    event.preventDefault();
    create();
  }}><div class="split"><div class="stack">
    <section class="card"><header><h2>Model and data</h2></header><div class="form">
      <label class="field"><span>Base model</span><select required value=${form.model} onChange=${change("model")}>${((options || {}).models || []).map((name) => html`<option key=${name} value=${name} selected=${name === form.model}>${name}</option>`)}</select><small>${options && !options.models.length ? "There are no models: start the studio with --model MODEL." : "The model to train."}</small></label>
      <label class="field"><span>Method</span><select value=${form.method} onChange=${change("method")}><option value="qlora">QLoRA: 4-bit base, adapter</option><option value="lora">LoRA: adapter</option><option value="full">full: all weights</option></select><small>What is trained, and how the base is held in memory.</small></label>
      <label class="field"><span>Objective</span><select value=${form.objective} onChange=${aim}>${OBJECTIVES.map(([key, text]) => html`<option key=${key} value=${key} selected=${key === form.objective}>${text}</option>`)}</select><small>${objectiveOf(form.objective)[2]}</small></label>
      <label class="field"><span>Rows to train on</span><select required value=${form.file} onChange=${change("file")}><option value="">choose a file</option>${(files || []).filter((file) => file.status !== "error").map((file) => html`<option key=${file.id} value=${file.id}>${file.filename}${file.veneer.rows ? ` (${counted(file.veneer.rows, "row")})` : ""}</option>`)}${refused && html`<option value=${form.file} selected>${refused.filename}: cannot be used</option>`}</select><small>${form.file ? html`<a href=${link("data", form.file)}>What the check found</a>` : "A file of rows; upload one below."}</small></label>
      <label class="field"><span>Rows to evaluate on</span><select value=${form.validation} onChange=${change("validation")}><option value="">none</option>${(files || []).filter((file) => file.status === "processed").map((file) => html`<option key=${file.id} value=${file.id}>${file.filename}</option>`)}</select><small>The evaluation loss is measured on them.</small></label></div><br /><${Upload} onDone=${(
        file,
      ) => {
        refresh();
        set((old) => ({ ...old, file: file.id }));
      }} /></section>
    <section class="card"><header><h2>Training</h2></header><div class="form">${fields.map((field) => html`<${Setting} key=${field[0]} field=${field} value=${form.settings[field[0]] || ""} onChange=${setting(field[0])} plan=${ready ? plan : {}} options=${options} model=${form.model} />`)}
      ${extra.map((key) => html`<${Setting} key=${key} field=${[key, key, about(key)]} value=${form.settings[key]} onChange=${setting(key)} plan=${ready ? plan : {}} />`)}</div><br />
      <label class="field"><span>Any other setting</span><select value=${more} onChange=${(event) => {
        const key = event.target.value;
        if (key)
          set({
            ...form,
            settings: {
              ...form.settings,
              [key]: shown((options.settings.find((one) => one.key === key) || {}).default).replace("–", "null"),
            },
          });
        setMore("");
      }}><option value="">add a setting …</option>${((options || {}).settings || []).filter((one) => !(one.key in form.settings) && !fields.some((known) => known[0] === one.key) && !["method", "objective", "rewards", "output", "model"].includes(one.key)).map((one) => html`<option key=${one.key} value=${one.key}>${one.key}</option>`)}</select><small>Every key of docs/configuration.md. It begins with its default.</small></label></section>
    ${form.objective === "grpo" && html`<${Rewards} rewards=${form.rewards} options=${options} onChange=${(rewards) => set({ ...form, rewards })} />`}
    <section class="card"><header><h2>Name and priority</h2></header><div class="form"><label class="field"><span>Suffix</span><input value=${form.suffix} pattern="[A-Za-z0-9][A-Za-z0-9._\\-]*" maxlength="64" placeholder="claims" onInput=${change("suffix")} /><small>The name of the adapter begins with it.</small></label><label class="field"><span>Seed</span><input value=${form.seed} inputmode="numeric" pattern="[0-9]*" placeholder="0" onInput=${change("seed")} /><small>The same seed, data and settings give the same bytes.</small></label><label class="field"><span>Priority</span><input type="number" min="-100" max="100" value=${form.priority} onInput=${change("priority")} /><small>Jobs with a higher priority run first.</small></label></div></section></div>
    <div class="stack"><${PlanCard} plan=${plan} ready=${ready} wanting=${missingOf(form)}><button class="btn main" aria-disabled=${busy} disabled=${!ready || plan.waiting || !plan.found || !plan.found.fits}>${busy ? "Creating …" : "Create job"}</button></${PlanCard}>
      ${
        ready &&
        rows &&
        html`<section class="card">
          <header>
            <h2>What is trained</h2>
            <span class="quiet">the first rows</span>
          </header>
          <div class="rows">
            ${rows.map((row) => html`<${PreviewTokens} key=${row.where + row.answer} row=${row} />`)}
          </div>
        </section>`
      }</div></div></form>`;
}

function PlanCard({ plan, ready, wanting, children }) {
  const found = ready ? plan.found : null,
    values = found && found.plan,
    peak = values && (values.peak ?? values.memory);
  return html`<section class="card" aria-live="polite" aria-busy=${Boolean(plan.waiting)}>
    <header>
      <h2>Plan</h2>
      ${plan.waiting && html`<span class="quiet">planning …</span>`}${children}
    </header>
    ${!ready && html`<p class="quiet">${wanting || "Choose a model and a file that is ready"}: then the plan of the run appears here.</p>`}${ready && plan.problem && html`<p class="bad" role="alert">${plan.problem.message}</p>`}
    ${
      found &&
      html`<div class="stack">
        ${found.fits ? html`<${Facts} facts=${[values.peak ? ["peak memory", size(values.peak), values.limit ? `of ${size(values.limit)} allowed` : ""] : null, values.steps ? ["steps", number(values.steps)] : null, values.seconds_per_step ? ["about", duration(values.seconds_per_step * values.steps), `${duration(values.seconds_per_step)} per step`] : null, values.micro_batch_tokens ? ["micro-batch", number(values.micro_batch_tokens), "tokens"] : null, ["rank", shown(found.settings["lora.rank"])], ["rate", short(found.settings["train.learning_rate"])]]} />${values.limit && html`<${Bar} part=${values.peak / values.limit} label=${`${size(values.peak)} of ${size(values.limit)}`} />`}` : html`<p class="bad" role="alert">${found.refusal}</p>`}
        <details>
          <summary>What was found and chosen, and why</summary>
          <ul>
            ${found.notes.map((note, place) => html`<li key=${place}>${note}</li>`)}
          </ul>
        </details>
        <div>
          <h3>The same in a terminal</h3>
          <br />
          <pre class="box" id="command">${found.command}</pre>
          <br /><${Copy} text=${found.command} label="Copy command" />
        </div>
      </div>`
    }
  </section>`;
}

const brief = (message) => {
  const line = message.split("\n")[0];
  return line.length > 110 ? `${line.slice(0, 110)} …` : line;
};

// The field of a job's priority. Typed text stays in it, even if this job or others change in the meantime, until it was sent and
// the job has the new priority.
function Priority({ job, onSet }) {
  const [typed, type] = useState(null),
    stored = job.veneer.priority;
  useEffect(() => type((old) => (old && old.sent ? null : old)), [stored]);
  const change = (event) => {
    const field = event.target;
    if (!field.reportValidity()) return;
    if (field.value === "" || Number(field.value) === stored) {
      type(null);
      return;
    }
    type({ text: field.value, sent: true });
    onSet(Number(field.value)).then((done) => done || type(null));
  };
  return html`<label
    ><span class="visually-hidden">priority</span
    ><input
      type="number"
      title="priority"
      min="-100"
      max="100"
      size="4"
      value=${typed ? typed.text : String(stored)}
      onInput=${(event) => type(event.target.value === String(stored) ? null : { text: event.target.value, sent: false })}
      onChange=${change}
  /></label>`;
}

export function Queue() {
  const { jobs, runs } = useStore();
  const [error, fail] = useState(null),
    [held, hold] = useState(null);
  const all = [...jobs.values()].sort((one, other) => other.created_at - one.created_at);
  const state = (job) => job.veneer.status;
  const { value: order } = useAsked(
    "/studio/queue",
    all.map((job) => `${job.id}${state(job)}${job.veneer.priority}`).join() + String(held),
  );
  // Jobs that are not in the order yet come last.
  const at = (job) => {
      const found = order ? order.waiting.indexOf(job.id) : -1;
      return found < 0 ? Infinity : found;
    },
    compared = (one, other) => (one === other ? 0 : one - other);
  const waiting = all
    .filter((job) => state(job) === "queued")
    .sort(
      (one, other) =>
        compared(at(one), at(other)) ||
        other.veneer.priority - one.veneer.priority ||
        one.created_at - other.created_at,
    );
  const active = all.filter((job) => ["running", "validating_files", "paused"].includes(state(job))),
    ended = all.filter((job) => ["succeeded", "failed", "cancelled"].includes(state(job)));
  const move = (job, change) =>
    send(`/v1/fine_tuning/jobs/${job.id}/move`, change).then(
      () => {
        fail(null);
        hold(`${job.id}${Date.now()}`);
        return true;
      },
      (problem) => {
        fail(problem);
        return false;
      },
    );
  const progress = (job) => {
    const run = runs.get(job.id);
    return run && run.steps
      ? html`<div>
          ${number(run.step)} <span class="quiet">/ ${number(run.steps)}</span
          ><${Bar} part=${run.step / run.steps} label=${`${run.step} of ${run.steps} steps`} />
        </div>`
      : "–";
  };
  const name = (job) =>
    html`<a class="name" href=${link(job.veneer.of === undefined ? "run" : "task", job.id)}>${job.veneer.name}</a
      ><br /><span class="quiet"
        >${job.veneer.of ? `of ${job.veneer.of}` : job.model}${job.veneer.waiting ? ` · ${job.veneer.waiting}` : ""}${job.error ? html` · <span title=${job.error.message}>${brief(job.error.message)}</span>` : ""}</span
      >`;
  const place = (list) => (job, at) =>
    html`<span class="tools"><${Button} aria-label="Earlier" off=${!order || at === 0} onClick=${() => move(job, { before: list[at - 1].id })}>↑</${Button}><${Button} aria-label="Later" off=${!order || at === list.length - 1} onClick=${() => move(job, { before: at + 2 < list.length ? list[at + 2].id : null })}>↓</${Button}><${Priority} job=${job} onSet=${(priority) => move(job, { priority })} /></span>`;
  const columns = (list, movable) => [
    ["job", "Job", name, false, "lead"],
    ["state", "State", (job) => html`<${Pill} state=${state(job)} />`, false],
    ["progress", "Progress", progress, false],
    ["loss", "Loss", (job) => loss((runs.get(job.id) || { loss: null }).loss), false, "num"],
    ["memory", "Memory", (job) => size(job.veneer.peak), false, "num"],
    [
      "place",
      movable ? "Place, priority" : "Priority",
      movable ? place(list) : (job) => number(job.veneer.priority),
      false,
      "num",
    ],
    ["act", "", (job) => html`<span class="tools"><${JobButtons} job=${job} /></span>`, false],
  ];
  const table = (title, list, movable, empty) =>
    html`<section class="card flush queue">
      <header>
        <h2>${title}</h2>
        <span class="quiet">${number(list.length)}</span>
      </header>
      ${list.length ? html`<${Table} caption=${title} room=${1240} columns=${columns(list, movable)} rows=${list} keyOf=${(job) => job.id} />` : html`<p class="empty">${empty}</p>`}
    </section>`;
  return html`<${Head} title="Queue" about="One worker per device. A job that does not fit into memory waits, and says why."><a class="btn main" href=${link("new")}>New job</a></${Head}><${Fault} error=${error} /><div class="stack">${table("Running and paused", active, false, "Nothing is running.")}${table("Waiting", waiting, true, "No jobs are waiting.")}${table("Ended", ended, false, "No jobs have ended yet.")}</div>`;
}
