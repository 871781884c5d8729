// The page Export: the form of an export, and the list of all exports.
import { html, useState } from "/static/library/preact.js";
import { useFiles } from "/static/data/files.js";
import { useOptions } from "/static/common/hooks.js";
import { Fault, Field, Head, Names, Options } from "/static/common/parts.js";
import { AdapterField, RowsField, useAdapter, useNewTask } from "/static/results/task_fields.js";
import { Tasks } from "/static/results/tasks.js";

// The forms that an adapter can be exported to: the key, the name, and what it is.
const FORMS = [
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
// The number formats of matrices, for the forms that have a choice.
const MATRICES = {
  gguf: ["f32", "f16", "bf16", "q8_0", "q4_0", "q4_k_m"],
  "gguf-adapter": ["f32", "f16", "bf16", "q8_0"],
};

// The page. `run` is the name of the run whose adapter the form begins with.
export function Exports({ run }) {
  return html`<${Head}
      title="Export"
      about="Converts an adapter for other programs, then reads the files back and compares them with the adapter"
    />
    <div class="stack">
      <${ExportForm} run=${run} />
      <${Tasks} kind="export" title="Exports" empty="No exports yet." about=${(task) => task.veneer.settings.to} />
    </div>`;
}

function ExportForm({ run }) {
  const { value: options, error: optionsError } = useOptions();
  const [files, , filesError] = useFiles();
  const [adapter, setAdapter, adapterError] = useAdapter(run, options);
  const [to, setTo] = useState("merged");
  const [format, setFormat] = useState("");
  const [file, setFile] = useState("");
  const [send, busy, error] = useNewTask("/studio/exports");
  const formats = MATRICES[to] || [];
  const quant = formats.includes(format) ? format : "";
  const submit = (event) => {
    event.preventDefault();
    send({ run: adapter, to, ...(quant ? { quant } : {}), ...(file ? { file } : {}) });
  };
  return html`<form class="card" onSubmit=${submit}>
    <header>
      <h2>New export</h2>
      <button class="btn main" aria-disabled=${busy} disabled=${!adapter || (to === "merged-4bit" && !file)}>
        Export
      </button>
    </header>
    <${Fault} error=${error || optionsError || filesError || adapterError} />
    <div class="form">
      <${AdapterField} options=${options} value=${adapter} onChange=${setAdapter} />
      <${Field}
        name="Form"
        hint=${FORMS.find(([key]) => key === to)[2]}
        input=${html`<select name="to" value=${to} onChange=${(event) => setTo(event.target.value)}>
          <${Options} options=${FORMS} value=${to} />
        </select>`}
      />
      ${
        formats.length > 0 &&
        html`<${Field}
          name="Matrices"
          hint="The number format in the file."
          input=${html`<select value=${quant} onChange=${(event) => setFormat(event.target.value)}>
            <option value="">as the model is stored</option>
            <${Names} names=${formats} value=${quant} />
          </select>`}
        />`
      }
      <${RowsField}
        files=${files}
        value=${file}
        onChange=${setFile}
        empty="those of the run"
        hint="The export and the adapter are compared on these rows."
      />
    </div>
  </form>`;
}
