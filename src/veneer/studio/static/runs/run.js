// The page of one run.
import { html } from "/static/library/preact.js";
import { clock, date, duration, last, link, loss, number, short, size } from "/static/common/figures.js";
import { useAnswer } from "/static/common/hooks.js";
import { JobButtons, JobCard } from "/static/jobs/job_buttons.js";
import { Banner, Copy, Facts, Fault, Head, Pill, StepsBar } from "/static/common/parts.js";
import { apiPath } from "/static/common/requests.js";
import { RunDetails } from "/static/runs/run_details.js";
import { RunPlots, useRunCurves } from "/static/runs/run_plots.js";
import { canAnswer, stateOf, titleOf } from "/static/runs/run_state.js";
import { JudgedAnswers, Samples } from "/static/runs/samples.js";
import { useStore } from "/static/common/store.js";

// The page of the run or job with this name. The job's buttons have the same place before and after the run begins, so
// that a pressed one stays.
export function Run({ name }) {
  const { runs, jobs, connected } = useStore();
  const run = runs.get(name);
  const job = jobs.get(name);
  // What changes rarely is requested again every ten steps.
  const { value: details, error } = useAnswer(
    run ? apiPath("/studio/run", { name }) : null,
    run ? `${run.state}${run.step === run.steps}${Math.floor(run.step / 10)}${job ? job.status : ""}` : "",
  );
  const drawing = useRunCurves(name);
  return html`<${Head}
      title=${run ? titleOf(run, jobs) : job ? job.veneer.name : name}
      about=${run ? html`<${Path} path=${run.path} />` : statusOf(job, connected)}
      tools=${html`<${HeadButtons} run=${run} job=${job} adapter=${details && details.adapter} />`}
    />
    <${Fault} error=${error || drawing.error} />${job && job.error && html`<${Banner} text=${job.error.message} />`}
    ${run ? html`<${Content} ...${{ run, job, details, drawing }} />` : job && html`<${JobCard} job=${job} />`}`;
}

const Path = ({ path }) => html`<span class="mono">${path}</span> <${Copy} text=${path} label="Copy path" />`;

// Why a job has no run yet.
function statusOf(job, connected) {
  if (!job) return connected ? "The folder has no run with this name." : "connecting …";
  const states = { queued: "The job waits for a worker", running: "The job's process has begun" };
  return `${states[job.veneer.status] || "The job is not running"}; its run has not written anything yet.`;
}

// The state of the run and its job, and the links to what the run can be used for.
function HeadButtons({ run, job, adapter }) {
  const { jobs } = useStore();
  const state = run ? stateOf(run, jobs) : job && job.veneer.status;
  return html`${state && html`<${Pill} state=${state} />`}${job && html`<${JobButtons} job=${job} />`}${
    run && job && html`<a class="btn" href=${link("new", "", { like: run.name })}>New job like this</a>`
  }
  ${run && run.report && html`<a class="btn" href=${link("report", run.name)}>Evaluation</a>`}${
    run &&
    canAnswer(run, job) &&
    html`<a class="btn" href=${link("report", "", { run: run.name })}>Evaluate</a
      ><a class="btn" href=${link("export", "", { run: run.name })}>Export</a
      ><a class="btn" aria-disabled=${!adapter} href=${adapter ? link("chat", "", { model: adapter }) : undefined}
        >Chat</a
      >`
  }`;
}

function Content({ run, job, details, drawing }) {
  const plannedMemory = run.planned_memory_mb ?? (job && job.veneer.peak ? job.veneer.peak / 1e6 : null);
  return html`<div class="stack">
    <div class="card">
      <${RunFacts} run=${run} curves=${drawing.curves} plannedMemory=${plannedMemory} />
      ${run.state === "running" && html`<div><br /><${StepsBar} run=${run} /></div>`}
    </div>
    <${RunPlots} run=${run} drawing=${drawing} plannedMemory=${plannedMemory} />
    ${details && details.samples.length > 0 && html`<${Samples} samples=${details.samples} />`}
    ${details && details.judged.length > 0 && html`<${JudgedAnswers} judged=${details.judged} />`}
    ${details && html`<${RunDetails} details=${details} run=${run} job=${job} />`}
  </div>`;
}

function RunFacts({ run, curves, plannedMemory }) {
  const rewards = curves && curves.metrics.reward ? curves.metrics.reward.y : [];
  const secondsLeft = run.step && run.state === "running" ? ((run.steps - run.step) * run.seconds) / run.step : null;
  const facts = [
    ["steps", number(run.step), run.steps ? `of ${number(run.steps)}` : ""],
    run.metrics.includes("reward")
      ? ["reward", short(rewards[rewards.length - 1]), `loss ${loss(run.loss)}`]
      : ["loss", loss(run.loss)],
    run.best_value === null
      ? ["best evaluation", loss(run.best_loss), run.best_step ? `step ${number(run.best_step)}` : ""]
      : [`best ${run.best_by}`, short(run.best_value), `step ${number(run.best_step)}, loss ${loss(run.best_loss)}`],
    secondsLeft !== null ? ["time left", duration(secondsLeft)] : ["time in steps", duration(run.seconds)],
    ["tokens", number(run.tokens), run.seconds ? `${number(run.tokens / run.seconds)}/s` : ""],
    [
      "peak memory",
      run.memory_mb === null ? "–" : size(run.memory_mb * 1e6),
      plannedMemory !== null ? `plan ${size(plannedMemory * 1e6)}` : "",
    ],
    [
      "a step",
      run.step ? duration(run.seconds / run.step) : "–",
      run.planned_seconds !== null ? `plan ${duration(run.planned_seconds)}` : "",
    ],
    ["model", last(run.model) || "–", run.method],
    ["peak rate", short(run.learning_rate)],
    ["begun", run.begun ? clock(run.begun) : "–", date(run.begun)],
  ];
  return html`<${Facts} facts=${facts} />`;
}
