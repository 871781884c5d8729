// The use of adapters of finished runs: evaluations on files, and exports with their certificates.
import { html, useEffect, useState } from "/static/preact.js";
import { apiPath, make, useAct, useAsked, useOptions, useStore } from "/static/lib.js";
import { counted, link, moment, number, numeral, short, size } from "/static/figures.js";
import { Copy, Facts, Fault, Head, Loading, Pill, SortTable, Table } from "/static/parts.js";
import { Upload, useFiles } from "/static/data.js";
import { JobButtons, JobLog, title } from "/static/runs.js";

export const tasksOf = (jobs, kind) => [...jobs.values()].filter((job) => job.veneer.kind === kind);
// The name of a task's run on the pages.
export const subject = (task, runs, jobs) => {
  const run = runs.get(task.veneer.of);
  return run ? title(run, jobs) : task.veneer.of;
};

function Adapters({ options, value, onChange }) {
  const names = Object.keys((options || {}).adapters || {});
  return html`<label class="field"
    ><span>Adapter</span
    ><select name="adapter" required value=${value} onChange=${onChange}>
      <option value="">choose one</option>
      ${names.map((name) => html`<option key=${name} value=${name} selected=${name === value}>${name}</option>`)}</select
    ><small>${options && !names.length ? "No run has finished yet." : "The adapter of a finished run."}</small></label
  >`;
}

function Rows({ files, value, onChange, hint, empty }) {
  return html`<label class="field"
    ><span>Rows</span
    ><select name="rows" value=${value} onChange=${onChange}>
      <option value="">${empty}</option>
      ${(files || []).filter((file) => file.status === "processed").map((file) => html`<option key=${file.id} value=${file.id} selected=${file.id === value}>${file.filename}${file.veneer.rows ? ` (${counted(file.veneer.rows, "row")})` : ""}</option>`)}</select
    ><small>${hint}</small></label
  >`;
}

// The name of the adapter that a run has made. The address of the page has the name of the run instead.
function useAdapter(run, options) {
  const { runs, connected } = useStore(),
    lost =
      run && connected && !runs.has(run)
        ? new Error(`The run ${run} does not exist, or was deleted: choose an adapter.`)
        : null;
  const [chosen, choose] = useState(""),
    { value: made } = useAsked(run ? apiPath("/studio/run", { name: run }) : null);
  useEffect(() => {
    if (!chosen && options && made && Object.keys(options.adapters).includes(made.adapter)) choose(made.adapter);
  }, [options, made]);
  return [chosen, choose, lost];
}

function useSent(path) {
  const [create, busy, error] = useAct(async (body) => {
    const task = await make(path, body);
    location.hash = link("task", task.id);
  });
  return [create, error, busy];
}

export function Evaluate({ run }) {
  const { value: options, error: missing } = useOptions(),
    [files, refresh, absent] = useFiles();
  const [adapter, choose, lost] = useAdapter(run, options),
    [file, setFile] = useState(""),
    [limit, setLimit] = useState(""),
    [metric, setMetric] = useState(""),
    [better, setBetter] = useState(""),
    [suites, setSuites] = useState({});
  const [create, error, busy] = useSent("/studio/evaluations");
  const margins = Object.fromEntries(
    Object.entries(suites)
      .filter(([, margin]) => margin !== "")
      .map(([name, margin]) => [name, Number(margin)]),
  );
  const gate =
    better !== "" || Object.keys(margins).length
      ? {
          ...(better !== "" ? { better_by: Number(better) } : {}),
          ...(Object.keys(margins).length ? { suites: margins } : {}),
        }
      : null;
  const ask = (event) => {
    event.preventDefault();
    create({
      run: adapter,
      file,
      ...(limit ? { limit: numeral(limit) } : {}),
      ...(metric ? { metrics: [metric] } : {}),
      ...(Object.keys(suites).length ? { suites: Object.keys(suites) } : {}),
      ...(gate ? { gate } : {}),
    });
  };
  const suite = (name) => () => {
    const next = { ...suites };
    if (name in next) delete next[name];
    else next[name] = "";
    setSuites(next);
  };
  return html`<form class="card" onSubmit=${ask}>
    <header>
      <h2>Evaluate on a file</h2>
      <button class="btn main" aria-disabled=${busy} disabled=${!adapter || !file}>Evaluate</button>
    </header>
    <${Fault} error=${error || missing || absent || lost} />
    <div class="form">
      <${Adapters} options=${options} value=${adapter} onChange=${(event) => choose(event.target.value)} /><${Rows}
        files=${files && files.filter((file) => !file.veneer.asks)}
        value=${file}
        onChange=${(event) => setFile(event.target.value)}
        empty="choose a file"
        hint="Base and adapter are scored on these rows. On rows that were trained on, scores are too good; the report warns of that."
      />
      <label class="field"
        ><span>Metric</span
        ><select value=${metric} onChange=${(event) => setMetric(event.target.value)}>
          <option value="">chosen by the rows</option>
          ${((options || {}).measured || []).map((name) => html`<option key=${name} value=${name}>${name}</option>`)}</select
        ><small>The primary metric, which the gate uses.</small></label
      >
      <label class="field"
        ><span>Limit</span
        ><input
          value=${limit}
          inputmode="numeric"
          pattern="[0-9]*"
          placeholder="all"
          onInput=${(event) => setLimit(event.target.value)}
        /><small>How many rows to use, from the first.</small></label
      >
      <label class="field"
        ><span>Gate: better by</span
        ><input
          type="number"
          step="any"
          placeholder="no gate"
          value=${better}
          onInput=${(event) => setBetter(event.target.value)}
        /><small>The least improvement of the metric: 0.02 of a share is two percentage points.</small></label
      >
    </div>
    <fieldset>
      <legend>Suites: what the model may have forgotten</legend>
      <div class="tools">
        ${((options || {}).suites || []).map(
          (name) =>
            html`<span key=${name} class="tools"
              ><label><input type="checkbox" checked=${name in suites} onChange=${suite(name)} /> ${name}</label
              >${name in suites && html`<label>gate: loses at most <input type="number" min="0.001" step="any" value=${suites[name]} onInput=${(event) => setSuites({ ...suites, [name]: event.target.value })} /></label>`}</span
            >`,
        )}
      </div>
    </fieldset>
    <${Upload}
      id="rows"
      onDone=${(made) => {
        refresh();
        setFile(made.id);
      }}
    />
  </form>`;
}

const TARGETS = [
  ["merged", "merged model", "A model in Hugging Face's form, with the adapter in its weights."],
  ["peft", "PEFT adapter", "The folder of an adapter, as PEFT writes it."],
  ["gguf", "GGUF model", "One file for llama.cpp and Ollama, with the adapter in its weights."],
  ["gguf-adapter", "GGUF adapter", "One file that llama.cpp loads together with the base."],
  [
    "merged-4bit",
    "merged model in 4 bits",
    "Stored as by bitsandbytes. Needs rows: their loss shows whether the update survives.",
  ],
];
const QUANTS = ["f32", "f16", "bf16", "q8_0", "q4_0", "q4_k_m"],
  MATRICES = { gguf: QUANTS, "gguf-adapter": QUANTS.slice(0, 4) };

export function Export({ run }) {
  const { runs, jobs } = useStore(),
    { value: options, error: missing } = useOptions(),
    [files, , absent] = useFiles();
  const [adapter, choose, lost] = useAdapter(run, options),
    [to, setTo] = useState("merged"),
    [quant, setQuant] = useState(""),
    [file, setFile] = useState("");
  const [create, error, busy] = useSent("/studio/exports"),
    quants = MATRICES[to],
    chosen = quants && quants.includes(quant) ? quant : "";
  return html`<${Head}
      title="Export"
      about="Converts an adapter for other programs, then reads the files back and compares them with the adapter"
    />
    <div class="stack">
      <form
        class="card"
        onSubmit=${(event) => {
          event.preventDefault();
          create({ run: adapter, to, ...(chosen ? { quant: chosen } : {}), ...(file ? { file } : {}) });
        }}
      >
        <header>
          <h2>New export</h2>
          <button class="btn main" aria-disabled=${busy} disabled=${!adapter || (to === "merged-4bit" && !file)}>
            Export
          </button>
        </header>
        <${Fault} error=${error || missing || absent || lost} />
        <div class="form">
          <${Adapters} options=${options} value=${adapter} onChange=${(event) => choose(event.target.value)} />
          <label class="field"
            ><span>Form</span
            ><select name="to" value=${to} onChange=${(event) => setTo(event.target.value)}>
              ${TARGETS.map(([key, text]) => html`<option key=${key} value=${key} selected=${key === to}>${text}</option>`)}</select
            ><small>${TARGETS.find((one) => one[0] === to)[2]}</small></label
          >
          ${
            quants &&
            html`<label class="field"
              ><span>Matrices</span
              ><select value=${chosen} onChange=${(event) => setQuant(event.target.value)}>
                <option value="">as the model is stored</option>
                ${quants.map((name) => html`<option key=${name} value=${name}>${name}</option>`)}</select
              ><small>The number format in the file.</small></label
            >`
          }
          <${Rows}
            files=${files}
            value=${file}
            onChange=${(event) => setFile(event.target.value)}
            empty="those of the run"
            hint="The export and the adapter are compared on these rows."
          />
        </div>
      </form>
      <${Tasks}
        tasks=${tasksOf(jobs, "export")}
        title="Exports"
        empty="No exports yet."
        about=${(task) => task.veneer.settings.to}
        runs=${runs}
        jobs=${jobs}
      />
    </div>`;
}

export function Tasks({ tasks, title: heading, empty, about, runs, jobs }) {
  const columns = [
    [
      "of",
      "Adapter",
      (task) =>
        html`<a class="name" href=${link("task", task.id)}>${subject(task, runs, jobs)}</a>
          <div class="quiet">${about(task)}</div>`,
      (task) => subject(task, runs, jobs),
      "lead",
    ],
    ["status", "State", (task) => html`<${Pill} state=${task.veneer.status} />`, (task) => task.veneer.status],
    ["created_at", "Created", (task) => moment(task.created_at), (task) => task.created_at, "num"],
    ["act", "", (task) => html`<span class="tools"><${JobButtons} job=${task} /></span>`, false],
  ];
  return html`<section class="card flush">
    <header>
      <h2>${heading}</h2>
      <span class="quiet">${number(tasks.length)}</span>
    </header>
    ${tasks.length ? html`<${SortTable} caption=${heading} columns=${columns} rows=${tasks} keyOf=${(task) => task.id} first=${{ key: "created_at", down: true }} />` : html`<p class="empty">${empty}</p>`}
  </section>`;
}

// A task that has not finished, or has failed.
export function TaskState({ task }) {
  const { runs, jobs } = useStore();
  return html`<${Head} title=${`${task.veneer.kind === "export" ? "Export" : "Evaluation"} of ${subject(task, runs, jobs)}`} about=${task.veneer.name}><${Pill} state=${task.veneer.status} /><${JobButtons} job=${task} /><a class="btn" href=${link("run", task.veneer.of)}>Run</a></${Head}>
    ${task.error && html`<pre class="banner" role="alert">${task.error.message}</pre>`}${task.veneer.waiting && html`<p class="warn">${task.veneer.waiting}</p>`}<section class="card"><header><h2>Job</h2></header><${JobLog} job=${task} /></section>`;
}

export function ExportPage({ task }) {
  const { runs, jobs } = useStore();
  const { value, error } = useAsked(apiPath("/studio/export", { task: task.id }), task.veneer.status);
  const record = value && value.record,
    parity = value && value.parity;
  return html`<${Head} title=${`Export of ${subject(task, runs, jobs)}`} about=${task.veneer.settings.to}><${Pill} state=${task.veneer.status} /><a class="btn" href=${link("run", task.veneer.of)}>Run</a></${Head}><${Fault} error=${error} />${!value && !error && html`<${Loading} />`}${
    value &&
    html`<div class="stack">
      ${
        record &&
        html`<div class="card">
          <${Facts}
            facts=${[
              ["form", record.to],
              ["format", record.format],
              ["model", String(record.model).split("/").pop()],
              ["merged into", record.merged_into || "–"],
              ["files", number(value.files.length), size(value.files.reduce((sum, file) => sum + file.bytes, 0))],
            ]}
          />${
            (record.notes || []).length > 0 &&
            html`<ul>
              ${record.notes.map((note, place) => html`<li key=${place}>${note}</li>`)}
            </ul>`
          }
        </div>`
      }
      ${parity && html`<${Certificate} parity=${parity} />`}
      <section class="card flush">
        <header><h2>Files</h2></header>
        <${Table}
          caption="Files of the export"
          rows=${value.files}
          keyOf=${(file) => file.name}
          columns=${[
            ["name", "File", (file) => file.name, false, "mono lead"],
            ["bytes", "Size", (file) => size(file.bytes), false, "num"],
            [
              "take",
              "",
              (file) =>
                html`<a
                  class="btn small"
                  href=${apiPath("/studio/export/file", { task: task.id, name: file.name })}
                  download
                  >Download</a
                >`,
              false,
              "num",
            ],
          ]}
        />
      </section>
    </div>`
  }`;
}

// What each program reads from the export, compared with the adapter on its base.
function Certificate({ parity }) {
  const readers = [...(parity.readers || []), ...(parity.merged ? [parity.merged] : [])],
    equal = (part, all) => html`${number(part)} <span class="quiet">of ${number(all)}</span>`;
  return html`<section class="card flush">
    <header>
      <h2>Certificate</h2>
      <${Pill}
        state=${parity.passed ? "finished" : "failed"}
        text=${parity.passed ? "the same model" : "another model"}
      /><${Copy} text=${JSON.stringify(parity, null, 2)} />
    </header>
    <p class="hint inset">
      The exported files are read back, and their answers are compared with those of the adapter on its base.
      Divergences are in nats per token; each must stay below the limit that the rounding of the format allows.
    </p>
    ${(parity.problems || []).map((line, place) => html`<p key=${place} class="bad inset">${line}</p>`)}
    <${Table}
      caption="Certificate"
      rows=${readers}
      keyOf=${(one) => one.reader}
      columns=${[
        ["reader", "Read by", (one) => one.reader, false, "name lead"],
        ["answers", "Equal answers", (one) => equal(one.greedy_equal, one.greedy), false, "num"],
        ["texts", "Equal texts", (one) => equal(one.texts_equal, one.texts), false, "num"],
        ["top", "Likeliest token equal", (one) => equal(one.top1, one.positions), false, "num"],
        ["divergence", "Divergence", (one) => short(one.divergence), false, "num"],
        ["allowed", "Allowed", (one) => short(one.allowed), false, "num"],
        ["gap", "Largest gap", (one) => short(one.gap), false, "num"],
      ]}
    />
  </section>`;
}
