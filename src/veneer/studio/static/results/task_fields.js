// What the forms of evaluations and exports share: the choices of an adapter and of rows.
import { html, useEffect, useState } from "/static/library/preact.js";
import { link } from "/static/common/figures.js";
import { fileLabel } from "/static/data/files.js";
import { useAction, useAnswer } from "/static/common/hooks.js";
import { isUnnamed } from "/static/jobs/job_request.js";
import { Field, Names, Options } from "/static/common/parts.js";
import { apiPath, create } from "/static/common/requests.js";
import { useStore } from "/static/common/store.js";

// The choice of an adapter.
export function AdapterField({ options, value, onChange }) {
  const names = Object.keys((options || {}).adapters || {});
  return html`<${Field}
    name="Adapter"
    hint=${options && !names.length ? "No run has finished yet." : "The adapter of a finished run."}
    input=${html`<select name="adapter" required value=${value} onChange=${(event) => onChange(event.target.value)}>
      <option value="">choose one</option>
      <${Names} names=${names} value=${value} />
    </select>`}
  />`;
}

// The choice of a file of rows that has been checked. The run of an adapter may have mapped columns with other names.
export function RowsField({ files, value, onChange, hint, empty }) {
  const ready = (files || []).filter((file) => file.status === "processed" || isUnnamed(file));
  return html`<${Field}
    name="Rows"
    hint=${hint}
    input=${html`<select name="rows" value=${value} onChange=${(event) => onChange(event.target.value)}>
      <option value="">${empty}</option>
      <${Options} options=${ready.map((file) => [file.id, fileLabel(file)])} value=${value} />
    </select>`}
  />`;
}

// The chosen adapter, a function that chooses one, and an error if the run is lost. The address of the page has the
// name of the run; in the beginning, the adapter that it has made is chosen.
export function useAdapter(run, options) {
  const { runs, connected } = useStore();
  const [chosen, setChosen] = useState("");
  const { value: details } = useAnswer(run ? apiPath("/studio/run", { name: run }) : null);
  useEffect(() => {
    if (chosen || !options || !details) return;
    if (Object.keys(options.adapters).includes(details.adapter)) setChosen(details.adapter);
  }, [options, details]);
  const isLost = run && connected && !runs.has(run);
  const error = isLost ? new Error(`The run ${run} does not exist, or was deleted: choose an adapter.`) : null;
  return [chosen, setChosen, error];
}

// Creates a task at this address and opens its page. Returns the function, whether it is in progress, and its error.
export const useNewTask = (path) =>
  useAction(async (body) => {
    const task = await create(path, body);
    location.hash = link("task", task.id);
  });
