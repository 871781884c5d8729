// The page of one export: its files, and the certificate that other programs read the same model from them.
import { html } from "/static/library/preact.js";
import { link, number, short, size } from "/static/common/figures.js";
import { useAnswer } from "/static/common/hooks.js";
import { Copy, Facts, Fault, Head, Loading, Pill } from "/static/common/parts.js";
import { apiPath } from "/static/common/requests.js";
import { useStore } from "/static/common/store.js";
import { Table } from "/static/common/table.js";
import { subjectOf } from "/static/results/tasks.js";

// The page of an export that has succeeded.
export function ExportPage({ task }) {
  const { runs, jobs } = useStore();
  const { value, error } = useAnswer(apiPath("/studio/export", { task: task.id }), task.veneer.status);
  const tools = html`<${Pill} state=${task.veneer.status} /><a class="btn" href=${link("run", task.veneer.of)}>Run</a>`;
  return html`<${Head}
      title=${`Export of ${subjectOf(task, runs, jobs)}`}
      about=${task.veneer.settings.to}
      tools=${tools}
    /><${Fault} error=${error} />${!value && !error && html`<${Loading} />`}${
      value &&
      html`<div class="stack">
        ${value.record && html`<${Summary} record=${value.record} files=${value.files} />`}
        ${value.parity && html`<${Certificate} parity=${value.parity} />`}
        <${Files} task=${task} files=${value.files} />
      </div>`
    }`;
}

function Summary({ record, files }) {
  const bytes = files.reduce((sum, file) => sum + file.bytes, 0);
  const facts = [
    ["form", record.to],
    ["format", record.format],
    ["model", String(record.model).split("/").pop()],
    ["merged into", record.merged_into || "–"],
    ["files", number(files.length), size(bytes)],
  ];
  const notes = record.notes || [];
  return html`<div class="card">
    <${Facts} facts=${facts} />${
      notes.length > 0 &&
      html`<ul>
        ${notes.map((note, place) => html`<li key=${place}>${note}</li>`)}
      </ul>`
    }
  </div>`;
}

function Files({ task, files }) {
  const address = (file) => apiPath("/studio/export/file", { task: task.id, name: file.name });
  const columns = [
    { key: "name", title: "File", kind: "mono lead", cell: (file) => file.name },
    { key: "bytes", title: "Size", kind: "num", cell: (file) => size(file.bytes) },
    {
      key: "take",
      title: "",
      kind: "num",
      cell: (file) => html`<a class="btn small" href=${address(file)} download>Download</a>`,
    },
  ];
  return html`<section class="card flush">
    <header><h2>Files</h2></header>
    <${Table} caption="Files of the export" rows=${files} keyOf=${(file) => file.name} columns=${columns} />
  </section>`;
}

// What each program reads from the export, compared with the adapter on its base.
function Certificate({ parity }) {
  const readers = [...(parity.readers || []), ...(parity.merged ? [parity.merged] : [])];
  const share = (part, all) => html`${number(part)} <span class="quiet">of ${number(all)}</span>`;
  const columns = [
    { key: "reader", title: "Read by", kind: "name lead", cell: ({ reader }) => reader },
    {
      key: "answers",
      title: "Equal answers",
      kind: "num",
      cell: (reader) => share(reader.greedy_equal, reader.greedy),
    },
    { key: "texts", title: "Equal texts", kind: "num", cell: (reader) => share(reader.texts_equal, reader.texts) },
    { key: "top", title: "Likeliest token equal", kind: "num", cell: (reader) => share(reader.top1, reader.positions) },
    { key: "divergence", title: "Divergence", kind: "num", cell: ({ divergence }) => short(divergence) },
    { key: "allowed", title: "Allowed", kind: "num", cell: ({ allowed }) => short(allowed) },
    { key: "gap", title: "Largest gap", kind: "num", cell: ({ gap }) => short(gap) },
  ];
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
    <${Table} caption="Certificate" rows=${readers} keyOf=${({ reader }) => reader} columns=${columns} />
  </section>`;
}
