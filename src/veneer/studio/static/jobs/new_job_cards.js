// The cards of a new job with its model, its rows and its name.
import { html } from "/static/library/preact.js";
import { link } from "/static/common/figures.js";
import { fileLabel } from "/static/data/files.js";
import { isUnnamed, withObjective } from "/static/jobs/job_request.js";
import { OBJECTIVES, objectiveOf } from "/static/jobs/objectives.js";
import { Field, Names, Options } from "/static/common/parts.js";
import { Upload } from "/static/common/upload.js";

const METHODS = [
  ["qlora", "QLoRA: 4-bit base, adapter"],
  ["lora", "LoRA: adapter"],
  ["full", "full: all weights"],
];

// The choices of the model, the method, the objective and the files of rows.
export function ModelCard({ form, setForm, options, files, refresh }) {
  const { models = [] } = options || {};
  const set = (key) => (event) => setForm({ ...form, [key]: event.target.value });
  const setObjective = (event) => setForm(withObjective(form, event.target.value));
  const hint =
    options && !models.length ? "There are no models: start the studio with --model MODEL." : "The model to train.";
  const uploaded = (file) => {
    refresh();
    setForm((old) => ({ ...old, file: file.id }));
  };
  return html`<section class="card">
    <header><h2>Model and data</h2></header>
    <div class="form">
      <${Field}
        name="Base model"
        hint=${hint}
        input=${html`<select required value=${form.model} onChange=${set("model")}>
          <${Names} names=${models} value=${form.model} />
        </select>`}
      />
      <${Field}
        name="Method"
        hint="What is trained, and how the base is held in memory."
        input=${html`<select value=${form.method} onChange=${set("method")}>
          <${Options} options=${METHODS} value=${form.method} />
        </select>`}
      />
      <${Field}
        name="Objective"
        hint=${objectiveOf(form.objective).rows}
        input=${html`<select value=${form.objective} onChange=${setObjective}>
          <${Options} options=${OBJECTIVES.map(({ name, text }) => [name, text])} value=${form.objective} />
        </select>`}
      />
      <${FileFields} form=${form} files=${files || []} set=${set} />
    </div>
    <br /><${Upload} onDone=${uploaded} />
  </section>`;
}

function FileFields({ form, files, set }) {
  const usable = files.filter((file) => file.status !== "error" || isUnnamed(file));
  const label = (file) => `${fileLabel(file)}${isUnnamed(file) ? ": needs data.columns" : ""}`;
  const refused = files.find((file) => file.id === form.file && !usable.includes(file));
  const ready = usable.filter((file) => file.status === "processed" || form.settings["data.columns"]);
  return html`<${Field}
      name="Rows to train on"
      hint=${
        form.file
          ? html`<a href=${link("data", form.file)}>What the check found</a>`
          : "A file of rows; upload one below."
      }
      input=${html`<select required value=${form.file} onChange=${set("file")}>
        <option value="">choose a file</option>
        <${Options} options=${usable.map((file) => [file.id, label(file)])} value=${form.file} />
        ${refused && html`<option value=${form.file} selected>${refused.filename}: cannot be used</option>`}
      </select>`}
    />
    <${Field}
      name="Rows to evaluate on"
      hint="The evaluation loss is measured on them."
      input=${html`<select value=${form.validation} onChange=${set("validation")}>
        <option value="">none</option>
        <${Options} options=${ready.map((file) => [file.id, file.filename])} value=${form.validation} />
      </select>`}
    />`;
}

// The fields of the job's name, seed and priority.
export function NameCard({ form, setForm }) {
  const set = (key) => (event) => setForm({ ...form, [key]: event.target.value });
  return html`<section class="card">
    <header><h2>Name and priority</h2></header>
    <div class="form">
      <${Field}
        name="Suffix"
        hint="The name of the adapter begins with it."
        input=${html`<input
          value=${form.suffix}
          pattern="[A-Za-z0-9][A-Za-z0-9._\\-]*"
          maxlength="64"
          placeholder="claims"
          onInput=${set("suffix")}
        />`}
      /><${Field}
        name="Seed"
        hint="The same seed, data and settings give the same bytes."
        input=${html`<input
          value=${form.seed}
          inputmode="numeric"
          pattern="[0-9]*"
          placeholder="0"
          onInput=${set("seed")}
        />`}
      /><${Field}
        name="Priority"
        hint="Jobs with a higher priority run first."
        input=${html`<input type="number" min="-100" max="100" value=${form.priority} onInput=${set("priority")} />`}
      />
    </div>
  </section>`;
}
