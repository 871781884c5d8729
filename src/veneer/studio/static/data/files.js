// The page Data: the uploaded files of rows.
import { html, useEffect, useState } from "/static/library/preact.js";
import { counted, link, moment, size } from "/static/common/figures.js";
import { useAnswer } from "/static/common/hooks.js";
import { Fault, Head, Pill, SureButton } from "/static/common/parts.js";
import { ask } from "/static/common/requests.js";
import { useStore } from "/static/common/store.js";
import { SortTable } from "/static/common/table.js";
import { Upload } from "/static/common/upload.js";

// The files in an answer of the studio, a function that requests them again, and an error. They are requested again
// when the studio reports a change (from any window), and regularly while one of them is being checked.
function useStated(path, filesIn) {
  const [count, setCount] = useState(0);
  const { files: version } = useStore();
  const refresh = () => setCount((old) => old + 1);
  const { value, error } = useAnswer(path, `${version} ${count}`);
  useEffect(() => {
    if (!value || !filesIn(value).some((file) => file.status === "uploaded")) return () => {};
    const timer = setTimeout(refresh, 500);
    return () => clearTimeout(timer);
  }, [value, error]);
  return [value && filesIn(value), refresh, error];
}

// All files, a function that requests them again, and an error.
export const useFiles = () => useStated("/v1/files", ({ data }) => data);

// One file (null before it has arrived), and an error.
export function useFile(id) {
  const [files, , error] = useStated(`/v1/files/${id}`, (file) => [file]);
  return [files && files[0], error];
}

// The name of a file with the number of its rows.
export const fileLabel = (file) =>
  `${file.filename}${file.veneer.rows ? ` (${counted(file.veneer.rows, "row")})` : ""}`;

// The button for a job with these rows. Rows without answers need reinforcement, which is known after the check.
export function TrainOn({ file, kind }) {
  const query = { file: file.id, ...(file.veneer.asks ? { objective: "grpo" } : {}) };
  if (file.status === "processed")
    return html`<a class=${`btn ${kind}`} href=${link("new", "", query)}>Train on it</a>`;
  return file.status === "uploaded" && html`<button class=${`btn ${kind}`} disabled>Train on it</button>`;
}

const STATES = { uploaded: "checking", processed: "ready", error: "cannot be used" };

// The page of all files.
export function Files() {
  const [files, refresh, filesError] = useFiles();
  const [error, setError] = useState(null);
  // The keyboard focus moves to the next file, or to the page if there is no other file.
  const remove = (file, button) => {
    const row = button.closest("tr, li");
    const beside = row.nextElementSibling || row.previousElementSibling;
    const next = (beside && beside.querySelector(".danger")) || document.querySelector("main");
    const removed = () => {
      if ([button, document.body].includes(document.activeElement)) next.focus({ preventScroll: true });
      setError(null);
      refresh();
    };
    return ask(`/v1/files/${file.id}`, { method: "DELETE" }).then(removed, setError);
  };
  const empty = files ? "No files yet." : filesError ? "The files cannot be shown." : "Loading …";
  return html`<${Head} title="Data" about="Every row is checked in the form in which it is trained" /><${Fault}
      error=${error || filesError}
    />
    <div class="stack">
      <${Upload} onDone=${refresh} />
      <div class="card flush">
        ${
          files && files.length
            ? html`<${SortTable}
                caption="Files"
                columns=${columnsOf(remove)}
                rows=${files}
                keyOf=${(file) => file.id}
                first=${{ key: "created_at", down: true }}
              />`
            : html`<p class="empty">${empty}</p>`
        }
      </div>
    </div>`;
}

const columnsOf = (remove) => [
  {
    key: "filename",
    title: "File",
    kind: "lead",
    cell: (file) => html`<a class="name" href=${link("data", file.id)}>${file.filename}</a>`,
    sort: (file) => file.filename,
  },
  {
    key: "status",
    title: "State",
    cell: (file) => html`<${Pill} state=${file.status} text=${STATES[file.status]} />`,
    sort: (file) => file.status,
  },
  { key: "details", title: "What the check found", kind: "wrap", cell: (file) => file.status_details || "–" },
  { key: "bytes", title: "Size", kind: "num", cell: (file) => size(file.bytes), sort: (file) => file.bytes },
  {
    key: "created_at",
    title: "Uploaded",
    kind: "num",
    cell: (file) => moment(file.created_at),
    sort: (file) => file.created_at,
  },
  {
    key: "use",
    title: "",
    cell: (file) =>
      html`<${TrainOn} file=${file} kind="small" />${" "}<${SureButton}
          text="Delete"
          about=${`delete ${file.filename}`}
          onClick=${(event) => remove(file, event.currentTarget)}
        />`,
  },
];
