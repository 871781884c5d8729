// The buttons of a job, its messages, and the card with both.
import { html, useEffect, useState } from "/static/library/preact.js";
import { clock, link } from "/static/common/figures.js";
import { useAnswer } from "/static/common/hooks.js";
import { Copy, Pill, SureButton } from "/static/common/parts.js";
import { send } from "/static/common/requests.js";

const GOING = ["queued", "running", "validating_files"];

// The buttons to pause, resume and cancel a job. A click is pending until the state of the job changes. Pause and
// Resume are one button, and no button is `disabled`, so that the keyboard focus stays where it is.
export function JobButtons({ job }) {
  const [error, setError] = useState(null);
  const [clickedIn, setClickedIn] = useState(null);
  const { status, wanted, name } = job.veneer;
  const state = `${status} ${wanted}`;
  useEffect(() => setClickedIn(null), [state]);
  const change = async (verb) => {
    setClickedIn(state);
    try {
      await send(`/v1/fine_tuning/jobs/${job.id}/${verb}`, {});
      setError(null);
    } catch (problem) {
      setClickedIn(null);
      setError(problem);
    }
  };
  const isPending = clickedIn === state;
  const isPaused = status === "paused";
  const isGoing = GOING.includes(status);
  const isCancelling = wanted === "cancel";
  const isStill = isPending || (isGoing && wanted !== "run");
  const text = isPaused ? "Resume" : wanted === "pause" ? "Pausing …" : "Pause";
  const turn = () => isStill || change(isPaused ? "resume" : "pause");
  return html`${
    (isGoing || isPaused) &&
    html`<button
      type="button"
      class=${`btn small ${isPaused ? "main" : ""}`}
      aria-label=${`${text} ${name}`}
      aria-disabled=${isStill}
      onClick=${turn}
    >
      ${text}
    </button>`
  }
  ${
    (isGoing || isPaused) &&
    html`<${SureButton}
      text=${isCancelling ? "Cancelling …" : "Cancel"}
      about=${`cancel ${name}`}
      disabled=${isPending || isCancelling}
      onClick=${() => change("cancel")}
    />`
  }
  ${error && html`<span class="bad" role="alert">${error.message}</span>`}`;
}

// The messages of a job.
export function JobLog({ job }) {
  const { value } = useAnswer(
    `/v1/fine_tuning/jobs/${job.id}/events?limit=100&type=message`,
    `${job.veneer.status}${job.veneer.wanted}`,
  );
  const message = ({ id, created_at: time, level, message: text }) =>
    html`<li key=${id}>
      <time>${clock(time)}</time><span class=${{ error: "bad", warn: "warn" }[level] || ""}>${text}</span>
    </li>`;
  return html`<ul class="log">
    ${value && value.data.map(message)}
  </ul>`;
}

// The card of a job on its run's page. A fully trained model has a link to the chat here. For an adapter, the top of
// the page has one.
export function JobCard({ job }) {
  const model = job.veneer.settings.method === "full" ? job.fine_tuned_model : null;
  return html`<section class="card">
    <header>
      <h2>Job</h2>
      <${Pill} state=${job.veneer.status} />${
        model && html`<a class="btn small" href=${link("chat", "", { model })}>Chat with ${model}</a>`
      }<${Copy} text=${job.id} label="Copy id" />
    </header>
    ${job.veneer.waiting && html`<p class="warn">${job.veneer.waiting}</p>`}<${JobLog} job=${job} />
  </section>`;
}
