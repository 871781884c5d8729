// The form of an evaluation: base and adapter on the rows of a file.
import { html, useState } from "/static/library/preact.js";
import { numeral } from "/static/common/figures.js";
import { useFiles } from "/static/data/files.js";
import { useOptions } from "/static/common/hooks.js";
import { Fault, Field, Names } from "/static/common/parts.js";
import { AdapterField, RowsField, useAdapter, useNewTask } from "/static/results/task_fields.js";
import { Upload } from "/static/common/upload.js";

// The request of an evaluation. Suites are the values of their gates, empty for a suite without one.
function requestOf({ adapter, file, limit, metric, gain, suites }) {
  const names = Object.keys(suites);
  const gated = names.filter((name) => suites[name] !== "").map((name) => [name, Number(suites[name])]);
  const gate = {
    ...(gain !== "" ? { better_by: Number(gain) } : {}),
    ...(gated.length ? { suites: Object.fromEntries(gated) } : {}),
  };
  return {
    run: adapter,
    file,
    ...(limit ? { limit: numeral(limit) } : {}),
    ...(metric ? { metrics: [metric] } : {}),
    ...(names.length ? { suites: names } : {}),
    ...(Object.keys(gate).length ? { gate } : {}),
  };
}

// The form, which begins with the adapter of a run.
export function EvaluationForm({ run }) {
  const { value: options, error: optionsError } = useOptions();
  const [files, refresh, filesError] = useFiles();
  const [adapter, setAdapter, adapterError] = useAdapter(run, options);
  const [form, setForm] = useState({ file: "", limit: "", metric: "", gain: "", suites: {} });
  const [send, busy, error] = useNewTask("/studio/evaluations");
  const set = (key) => (value) => setForm((old) => ({ ...old, [key]: value }));
  const submit = (event) => {
    event.preventDefault();
    send(requestOf({ adapter, ...form }));
  };
  const uploaded = (file) => {
    refresh();
    set("file")(file.id);
  };
  return html`<form class="card" onSubmit=${submit}>
    <header>
      <h2>Evaluate on a file</h2>
      <button class="btn main" aria-disabled=${busy} disabled=${!adapter || !form.file}>Evaluate</button>
    </header>
    <${Fault} error=${error || optionsError || filesError || adapterError} />
    <div class="form">
      <${AdapterField} options=${options} value=${adapter} onChange=${setAdapter} />
      <${RowsField}
        files=${files && files.filter((file) => !file.veneer.asks)}
        value=${form.file}
        onChange=${set("file")}
        empty="choose a file"
        hint=${
          "Base and adapter are scored on these rows. " +
          "On rows that were trained on, scores are too good; the report warns of that."
        }
      />
      <${MeasureFields} form=${form} set=${set} metrics=${(options || {}).measured || []} />
    </div>
    <${SuiteFields} names=${(options || {}).suites || []} suites=${form.suites} onChange=${set("suites")} />
    <${Upload} id="rows" onDone=${uploaded} />
  </form>`;
}

const MeasureFields = ({ form, set, metrics }) =>
  html`<${Field}
      name="Metric"
      hint="The primary metric, which the gate uses."
      input=${html`<select value=${form.metric} onChange=${(event) => set("metric")(event.target.value)}>
        <option value="">chosen by the rows</option>
        <${Names} names=${metrics} value=${form.metric} />
      </select>`}
    />
    <${Field}
      name="Limit"
      hint="How many rows to use, from the first."
      input=${html`<input
        value=${form.limit}
        inputmode="numeric"
        pattern="[0-9]*"
        placeholder="all"
        onInput=${(event) => set("limit")(event.target.value)}
      />`}
    />
    <${Field}
      name="Gate: better by"
      hint="The least improvement of the metric: 0.02 of a share is two percentage points."
      input=${html`<input
        type="number"
        step="any"
        placeholder="no gate"
        value=${form.gain}
        onInput=${(event) => set("gain")(event.target.value)}
      />`}
    />`;

function SuiteFields({ names, suites, onChange }) {
  const toggle = (name) => {
    const { [name]: margin, ...others } = suites;
    onChange(margin === undefined ? { ...suites, [name]: "" } : others);
  };
  const gate = (name) =>
    html`<label
      >gate: loses at most${" "}<input
        type="number"
        min="0.001"
        step="any"
        value=${suites[name]}
        onInput=${(event) => onChange({ ...suites, [name]: event.target.value })}
    /></label>`;
  const suite = (name) =>
    html`<span key=${name} class="tools"
      ><label><input type="checkbox" checked=${name in suites} onChange=${() => toggle(name)} /> ${name}</label>${
        name in suites && gate(name)
      }</span
    >`;
  return html`<fieldset>
    <legend>Suites: what the model may have forgotten</legend>
    <div class="tools">${names.map(suite)}</div>
  </fieldset>`;
}
