// The page New job: a form, whose plan follows the input.
import { html, useEffect, useMemo, useRef, useState } from "/static/library/preact.js";
import { link, shown } from "/static/common/figures.js";
import { useFiles } from "/static/data/files.js";
import { dropKept, useAction, useKept, useOptions } from "/static/common/hooks.js";
import { fieldsOf, isUnnamed, missingIn, newForm, requestOf, valuesLike } from "/static/jobs/job_request.js";
import { ModelCard, NameCard } from "/static/jobs/new_job_cards.js";
import { Banner, Fault, Field, Head } from "/static/common/parts.js";
import { PlanCard, PreviewCard, usePlan, usePreview } from "/static/jobs/plan.js";
import { create } from "/static/common/requests.js";
import { Rewards } from "/static/jobs/rewards.js";
import { SettingField } from "/static/jobs/setting_field.js";
import { useStore } from "/static/common/store.js";

// The page. `query` can have a file, an objective, and `like`, the id of a job that the new one is to resemble.
export function NewJob({ query }) {
  const { value: options, error: optionsError } = useOptions();
  const [files, refresh, filesError] = useFiles();
  const draft = `new ${JSON.stringify(query)}`;
  const [form, setForm] = useForm(draft, query, options, files);
  const request = useMemo(() => requestOf(form, options), [form, options]);
  const file = (files || []).find(({ id }) => id === form.file);
  const missing = missingIn(form, file);
  const isUsable = isUnnamed(file) || (file && file.status === "processed");
  const isReady = Boolean(options && form.model && isUsable && !missing);
  const plan = usePlan(request, isReady);
  const rows = usePreview(request, isReady);
  const [createJob, busy, error] = useAction(async () => {
    const job = await create("/v1/fine_tuning/jobs", request);
    dropKept(draft);
    location.hash = link("run", job.id);
  });
  const submit = (event) => {
    event.preventDefault();
    createJob();
  };
  const canCreate = isReady && !plan.waiting && plan.found && plan.found.fits;
  const button = html`<button class="btn main" aria-disabled=${busy} disabled=${!canCreate}>
    ${busy ? "Creating …" : "Create job"}
  </button>`;
  const shared = { form, setForm, options };
  return html`<${Head}
      title="New job"
      about="veneer chooses the values of empty fields, and shows them in the plan"
    /><${Fault} error=${error || optionsError || filesError} /><${LostBanners} ...${{ query, form, options, files }} />
    <form onSubmit=${submit}>
      <div class="split">
        <div class="stack">
          <${ModelCard} ...${shared} files=${files} refresh=${refresh} />
          <${TrainingCard} ...${shared} plan=${isReady ? plan : {}} />
          ${
            form.objective === "grpo" &&
            html`<${Rewards}
              rewards=${form.rewards}
              options=${options}
              onChange=${(rewards) => setForm({ ...form, rewards })}
            />`
          }
          <${NameCard} ...${shared} />
        </div>
        <div class="stack">
          <${PlanCard} plan=${plan} isReady=${isReady} missing=${missing} button=${button} />
          ${isReady && rows && html`<${PreviewCard} rows=${rows} />`}
        </div>
      </div>
    </form>`;
}

// The values of the form. Once the choices have arrived, it begins with the first model and the first file, or with the
// values of another job.
function useForm(draft, query, options, files) {
  const { jobs } = useStore();
  const [form, setForm] = useKept(draft, newForm(query));
  const job = query.like ? jobs.get(query.like) : undefined;
  useEffect(() => {
    if (options && !form.model && options.models.length) setForm((old) => ({ ...old, model: options.models[0] }));
  }, [options]);
  useEffect(() => {
    const ready = (files || []).find((file) => file.status === "processed");
    if (ready && !form.file) setForm((old) => ({ ...old, file: ready.id }));
  }, [files]);
  useEffect(() => {
    if (!job || !options) return;
    setForm((old) => (old.like === query.like ? old : { ...old, ...valuesLike(job, options), like: query.like }));
  }, [Boolean(job), Boolean(options)]);
  return [form, setForm];
}

// The file or the job in the address may have been deleted. The form then begins without it.
function LostBanners({ query, form, options, files }) {
  const { jobs, connected } = useStore();
  if (!connected || !options || !files) return null;
  const job = query.like ? jobs.get(query.like) : undefined;
  const wanted = query.file || (job && job.training_file);
  const isFileLost = wanted && form.file === wanted && !files.some((file) => file.id === wanted);
  return html`${
    query.like &&
    !job &&
    html`<${Banner} text=${`The job ${query.like} does not exist, or was deleted: this is the form of a new one.`} />`
  }${
    isFileLost &&
    html`<${Banner} text="The file of rows to train on does not exist, or was deleted: choose another one." />`
  }`;
}

// These have fields of their own.
const ELSEWHERE = ["method", "objective", "rewards", "output", "model"];

// The fields of the objective's settings, and of any other setting that was added.
function TrainingCard({ form, setForm, options, plan }) {
  const known = (options || {}).settings || [];
  const knownSetting = (key) => known.find((setting) => setting.key === key) || {};
  const fields = fieldsOf(form.objective);
  const isField = (key) => fields.some((field) => field.key === key);
  const added = Object.keys(form.settings).filter((key) => !isField(key));
  const more = known.filter(({ key }) => !(key in form.settings) && !isField(key) && !ELSEWHERE.includes(key));
  const change = (key) => (event) => {
    const settings = { ...form.settings, [key]: event.target.value };
    // A field that was added stays when it is emptied: the user is about to type another value.
    if (settings[key] === "" && isField(key)) delete settings[key];
    setForm({ ...form, settings });
  };
  const add = (key) => {
    // It begins with its default. "null" is how a form names a missing one.
    const text = shown(knownSetting(key).default).replace("–", "null");
    setForm({ ...form, settings: { ...form.settings, [key]: text } });
  };
  const settingField = (field) =>
    html`<${SettingField}
      key=${field.key}
      field=${field}
      value=${form.settings[field.key] || ""}
      onChange=${change(field.key)}
      plan=${plan}
      options=${options}
      model=${form.model}
    />`;
  return html`<section class="card">
    <header><h2>Training</h2></header>
    <div class="form">
      ${fields.map(settingField)} ${added.map((key) => settingField({ key, name: key, hint: knownSetting(key).text }))}
    </div>
    <br />
    <${Field}
      name="Any other setting"
      hint="Every key of docs/configuration.md. It begins with its default. On the keyboard, Enter adds it."
      input=${html`<${AddSetting} keys=${more.map(({ key }) => key)} onAdd=${add} />`}
    />
  </section>`;
}

// The choice of a setting to add. The arrow keys change a closed list, which is no choice yet: what they show is added
// by Enter, or when the user goes on to another field.
function AddSetting({ keys, onAdd }) {
  const [shownKey, setShownKey] = useState("");
  const byKey = useRef(false);
  const add = (key) => {
    setShownKey("");
    if (key) onAdd(key);
  };
  const press = (event) => {
    byKey.current = true;
    if (event.key === "Escape") setShownKey("");
    if (event.key !== "Enter" || !shownKey) return;
    event.preventDefault(); // Enter would submit the form
    add(shownKey);
  };
  const change = (event) => (byKey.current ? setShownKey(event.target.value) : add(event.target.value));
  return html`<select
    value=${shownKey}
    onKeyDown=${press}
    onPointerDown=${() => {
      byKey.current = false;
    }}
    onChange=${change}
    onBlur=${() => {
      byKey.current = false;
      add(shownKey);
    }}
  >
    <option value="">add a setting …</option>
    ${keys.map((key) => html`<option key=${key} value=${key}>${key}</option>`)}
  </select>`;
}
