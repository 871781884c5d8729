// The upload of files of rows.
import { html, useState } from "/static/library/preact.js";
import { ask, keyed } from "/static/common/requests.js";

function upload(file) {
  const form = new FormData();
  form.append("purpose", "fine-tune");
  form.append("file", file);
  return keyed(`${file.name} ${file.size} ${file.lastModified}`, (headers) =>
    ask("/v1/files", { method: "POST", headers, body: form }),
  );
}

// A field that files are dropped on or chosen with. `onDone` is called with each uploaded file.
export function Upload({ onDone, id = "file" }) {
  const [isOver, setOver] = useState(false);
  const [error, setError] = useState(null);
  const [busy, setBusy] = useState(false);
  // A refused file does not stop the others.
  const take = async (files) => {
    const problems = [];
    setBusy(true);
    setError(null);
    for (const file of files)
      await upload(file).then(onDone, (problem) => problems.push(`${file.name}: ${problem.message}`));
    if (problems.length) setError(new Error(problems.join("\n")));
    setBusy(false);
  };
  // The input is cleared, since browsers report no change if the same file is chosen again, perhaps after it was
  // corrected.
  const choose = (event) => {
    take([...event.target.files]);
    event.target.value = "";
  };
  const dragOver = (event) => {
    event.preventDefault();
    setOver(true);
  };
  const drop = (event) => {
    event.preventDefault();
    setOver(false);
    take([...event.dataTransfer.files]);
  };
  return html`<div
    class=${`drop ${isOver ? "over" : ""}`}
    onDragOver=${dragOver}
    onDragLeave=${() => setOver(false)}
    onDrop=${drop}
  >
    <p>
      ${busy ? "Uploading …" : "Drop a file of rows here, or"}${" "}<label class="btn small"
        >choose one<input id=${id} type="file" accept=".jsonl,.json,.csv,.tsv,.parquet" onChange=${choose}
      /></label>
    </p>
    <p class="hint">
      JSONL, JSON, CSV or Parquet with messages, prompt and completion, chosen and rejected, or text. The file stays on
      the studio's machine.
    </p>
    ${error && html`<p class="bad" role="alert">${error.message}</p>`}
  </div>`;
}
