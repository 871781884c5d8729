// The plan of a new job, which follows the form, and the first rows as the job would train them.
import { html, useEffect, useState } from "/static/library/preact.js";
import { duration, number, short, shown, size } from "/static/common/figures.js";
import { subscribe } from "/static/common/hooks.js";
import { previewOf } from "/static/jobs/job_request.js";
import { Bar, Copy, Facts } from "/static/common/parts.js";
import { send } from "/static/common/requests.js";
import { PreviewTokens } from "/static/data/tokens.js";

// The plan for a request that is ready: `found` or its `problem`, and whether a newer one is `waiting` for its answer.
export function usePlan(request, isReady) {
  const [plan, setPlan] = useState({});
  useEffect(() => {
    if (!isReady) return () => {};
    // The studio makes one plan at a time, and gives up a plan whose request was aborted.
    const controller = new AbortController();
    setPlan((old) => ({ ...old, waiting: true }));
    const subscription = subscribe(
      () => send("/v1/fine_tuning/jobs/estimate", request, { signal: controller.signal }),
      ({ value, error: problem }) => setPlan(problem ? { problem } : { found: value }),
      { begin: 450 },
    );
    return () => {
      subscription.close();
      controller.abort();
    };
  }, [JSON.stringify(request), isReady]);
  return plan;
}

// The first rows as they would be trained, or null.
export function usePreview(request, isReady) {
  const [rows, setRows] = useState(null);
  const preview = previewOf(request);
  useEffect(() => {
    if (!isReady) return () => {};
    return subscribe(
      () => send("/v1/fine_tuning/jobs/preview", preview),
      ({ value, error }) => setRows(error ? null : value.rows),
    ).close;
  }, [JSON.stringify(preview), isReady]);
  return rows;
}

// The card with the first rows.
export const PreviewCard = ({ rows }) =>
  html`<section class="card">
    <header>
      <h2>What is trained</h2>
      <span class="quiet">the first rows</span>
    </header>
    <div class="rows">${rows.map((row) => html`<${PreviewTokens} key=${row.where + row.answer} row=${row} />`)}</div>
  </section>`;

// The card with the plan. `missing` says what the form still needs, and `button` creates the job.
export function PlanCard({ plan, isReady, missing, button }) {
  const found = isReady ? plan.found : null;
  return html`<section class="card" aria-live="polite" aria-busy=${Boolean(plan.waiting)}>
    <header>
      <h2>Plan</h2>
      ${plan.waiting && html`<span class="quiet">planning …</span>`}${button}
    </header>
    ${
      !isReady &&
      html`<p class="quiet">
        ${missing || "Choose a model and a file that is ready"}: then the plan of the run appears here.
      </p>`
    }${isReady && plan.problem && html`<p class="bad" role="alert">${plan.problem.message}</p>`}
    ${
      found &&
      html`<div class="stack">
        ${found.fits ? html`<${PlanFacts} found=${found} />` : html`<p class="bad" role="alert">${found.refusal}</p>`}
        <details>
          <summary>What was found and chosen, and why</summary>
          <ul>
            ${found.notes.map((note, place) => html`<li key=${place}>${note}</li>`)}
          </ul>
        </details>
        <div>
          <h3>The same in a terminal</h3>
          <br />
          <pre class="box" id="command">${found.command}</pre>
          <br /><${Copy} text=${found.command} label="Copy command" />
        </div>
      </div>`
    }
  </section>`;
}

function PlanFacts({ found: { plan, settings } }) {
  const { peak, limit, steps, seconds_per_step: seconds, micro_batch_tokens: tokens } = plan;
  const facts = [
    peak ? ["peak memory", size(peak), limit ? `of ${size(limit)} allowed` : ""] : null,
    steps ? ["steps", number(steps)] : null,
    seconds ? ["about", duration(seconds * steps), `${duration(seconds)} per step`] : null,
    tokens ? ["micro-batch", number(tokens), "tokens"] : null,
    ["rank", shown(settings["lora.rank"])],
    ["rate", short(settings["train.learning_rate"])],
  ];
  return html`<${Facts} facts=${facts} />${
      limit && html`<${Bar} part=${peak / limit} label=${`${size(peak)} of ${size(limit)}`} />`
    }`;
}
