// The page Queue: the jobs that run, wait and have ended.
import { html, useEffect, useLayoutEffect, useRef, useState } from "/static/library/preact.js";
import { link, loss, number, size } from "/static/common/figures.js";
import { useAnswer } from "/static/common/hooks.js";
import { JobButtons } from "/static/jobs/job_buttons.js";
import { Button, Fault, Head, Pill, StepsBar } from "/static/common/parts.js";
import { send } from "/static/common/requests.js";
import { useStore } from "/static/common/store.js";
import { Table } from "/static/common/table.js";

const ACTIVE = ["running", "validating_files", "paused"];
const ENDED = ["succeeded", "failed", "cancelled"];

// The page of all jobs, the newest first.
export function Queue() {
  const { jobs, runs } = useStore();
  const [error, setError] = useState(null);
  const [moves, setMoves] = useState(0);
  const all = [...jobs.values()].sort((job, other) => other.created_at - job.created_at);
  const version = all.map((job) => `${job.id}${job.veneer.status}${job.veneer.priority}`).join() + String(moves);
  const { value: order } = useAnswer("/studio/queue", version);
  const waiting = inOrder(
    all.filter((job) => job.veneer.status === "queued"),
    order,
  );
  // Changes the place or the priority of a job, and returns whether that was done.
  const move = async (job, change) => {
    try {
      await send(`/v1/fine_tuning/jobs/${job.id}/move`, change);
    } catch (problem) {
      setError(problem);
      return false;
    }
    setError(null);
    setMoves((count) => count + 1);
    return true;
  };
  const columns = columnsOf(runs);
  const movable = columnsOf(
    runs,
    (job, place) => html`<${Place} job=${job} place=${place} jobs=${waiting} canMove=${Boolean(order)} move=${move} />`,
  );
  const active = all.filter((job) => ACTIVE.includes(job.veneer.status));
  const ended = all.filter((job) => ENDED.includes(job.veneer.status));
  return html`<${Head}
      title="Queue"
      about="One worker per device. A job that does not fit into memory waits, and says why."
      tools=${html`<a class="btn main" href=${link("new")}>New job</a>`}
    /><${Fault} error=${error} />
    <div class="stack">
      <${Jobs} title="Running and paused" jobs=${active} columns=${columns} empty="Nothing is running." />
      <${Jobs} title="Waiting" jobs=${waiting} columns=${movable} empty="No jobs are waiting." />
      <${Jobs} title="Ended" jobs=${ended} columns=${columns} empty="No jobs have ended yet." />
    </div>`;
}

// Jobs in the order of the studio's queue. Those that are not in the order yet come last, by priority and age.
function inOrder(jobs, order) {
  const placeOf = (job) => {
    const place = order ? order.waiting.indexOf(job.id) : -1;
    return place < 0 ? Infinity : place;
  };
  const difference = (place, other) => (place === other ? 0 : place - other);
  return [...jobs].sort(
    (job, other) =>
      difference(placeOf(job), placeOf(other)) ||
      other.veneer.priority - job.veneer.priority ||
      job.created_at - other.created_at,
  );
}

const Jobs = ({ title, jobs, columns, empty }) =>
  html`<section class="card flush queue">
    <header>
      <h2>${title}</h2>
      <span class="quiet">${number(jobs.length)}</span>
    </header>
    ${
      jobs.length
        ? html`<${Table} caption=${title} narrow=${1240} columns=${columns} rows=${jobs} keyOf=${(job) => job.id} />`
        : html`<p class="empty">${empty}</p>`
    }
  </section>`;

// The columns of jobs. `placeCell`, for jobs that wait, is the content of the cell that changes their place.
const columnsOf = (runs, placeCell = null) => [
  { key: "job", title: "Job", kind: "lead", cell: (job) => html`<${Name} job=${job} />` },
  { key: "state", title: "State", cell: (job) => html`<${Pill} state=${job.veneer.status} />` },
  { key: "progress", title: "Progress", cell: (job) => html`<${Progress} run=${runs.get(job.id)} />` },
  { key: "loss", title: "Loss", kind: "num", cell: (job) => loss((runs.get(job.id) || { loss: null }).loss) },
  { key: "memory", title: "Memory", kind: "num", cell: (job) => size(job.veneer.peak) },
  {
    key: "place",
    title: placeCell ? "Place, priority" : "Priority",
    kind: "num",
    cell: placeCell || ((job) => number(job.veneer.priority)),
  },
  { key: "act", title: "", cell: (job) => html`<${ListedButtons} job=${job} />` },
];

// The job whose buttons had the keyboard focus when they were removed, or null.
let leaving = null;

// The buttons of a job in a list. A click may move the job to another list, where it has new buttons: the keyboard
// focus moves to the first of them, or to the job's link if it has none there. The window does not scroll after it.
function ListedButtons({ job }) {
  const host = useRef(null);
  useLayoutEffect(() => {
    const element = host.current;
    if (leaving === job.id) {
      const next = element.querySelector("button") || element.closest("tr, li").querySelector("a");
      if (document.activeElement === document.body) next.focus({ preventScroll: true });
      leaving = null;
    }
    return () => {
      if (element.contains(document.activeElement)) leaving = job.id;
    };
  }, [job.id]);
  return html`<span ref=${host} class="tools"><${JobButtons} job=${job} /></span>`;
}

const brief = (message) => {
  const line = message.split("\n")[0];
  return line.length > 110 ? `${line.slice(0, 110)} …` : line;
};

// The link of a job, and below it the model or run that it uses, why it waits, and its error.
function Name({ job }) {
  const { name, of: run, waiting } = job.veneer;
  return html`<a class="name" href=${link(run === undefined ? "run" : "task", job.id)}>${name}</a><br /><span
      class="quiet"
      >${run ? `of ${run}` : job.model}${waiting ? ` · ${waiting}` : ""}${
        job.error && html` · <span title=${job.error.message}>${brief(job.error.message)}</span>`
      }</span
    >`;
}

const Progress = ({ run }) =>
  run && run.steps
    ? html`<div>${number(run.step)} <span class="quiet">/ ${number(run.steps)}</span><${StepsBar} run=${run} /></div>`
    : "–";

// The buttons that move a job among those that wait, and its priority. A row that changes its place is removed from the
// page and inserted again, by which the pressed button loses the keyboard focus: it gets it back.
function Place({ job, place, jobs, canMove, move }) {
  const { name } = job.veneer;
  const pressed = useRef(null);
  useLayoutEffect(() => {
    if (pressed.current && document.activeElement === document.body) pressed.current.focus({ preventScroll: true });
    pressed.current = null;
  }, [place]);
  const moveBefore = (event, index) => {
    pressed.current = event.currentTarget;
    move(job, { before: index < jobs.length ? jobs[index].id : null });
  };
  return html`<span class="tools"
    ><${Button}
      text="↑"
      aria-label=${`Move ${name} earlier`}
      off=${!canMove || place === 0}
      onClick=${(event) => moveBefore(event, place - 1)} /><${Button}
      text="↓"
      aria-label=${`Move ${name} later`}
      off=${!canMove || place === jobs.length - 1}
      onClick=${(event) => moveBefore(event, place + 2)} /><${Priority}
      job=${job}
      onChange=${(priority) => move(job, { priority })}
  /></span>`;
}

// The field of a job's priority. Typed text stays in it, even if this job or others change in the meantime, until it
// was sent and the job has the new priority.
function Priority({ job, onChange }) {
  const [typed, setTyped] = useState(null);
  const stored = job.veneer.priority;
  useEffect(() => setTyped((old) => (old && old.sent ? null : old)), [stored]);
  const type = (event) => {
    const text = event.target.value;
    setTyped(text === String(stored) ? null : { text, sent: false });
  };
  const change = async (event) => {
    const field = event.target;
    if (!field.reportValidity()) return;
    if (field.value === "" || Number(field.value) === stored) {
      setTyped(null);
      return;
    }
    setTyped({ text: field.value, sent: true });
    if (!(await onChange(Number(field.value)))) setTyped(null);
  };
  return html`<label
    ><span class="visually-hidden">priority of ${job.veneer.name}</span
    ><input
      type="number"
      title="priority"
      min="-100"
      max="100"
      size="4"
      value=${typed ? typed.text : String(stored)}
      onInput=${type}
      onChange=${change}
  /></label>`;
}
