// The page Compare: several runs with overlaid curves.
import { html, useState } from "/static/library/preact.js";
import { ComparedSettings, Results } from "/static/runs/compare_results.js";
import { AXES, BLANK, axisName, placeholder, useCurves } from "/static/plots/curves.js";
import { link, spaced } from "/static/common/figures.js";
import { Intervals } from "/static/plots/intervals.js";
import { Fault, Head, Options, Segments, Smoothing } from "/static/common/parts.js";
import { Plot, smoothed } from "/static/plots/plot.js";
import { apiPath } from "/static/common/requests.js";
import { useDiffering } from "/static/runs/run_settings.js";
import { titleOf } from "/static/runs/run_state.js";
import { Scatter } from "/static/plots/scatter.js";
import { useStore } from "/static/common/store.js";

// The largest number of runs that are compared at once: there are eight distinct colours.
export const MOST_COMPARED = 8;

// The curves that every run has: the name at the studio, the name on its button, and the title of the plot.
const CURVES = [
  ["loss", "loss", "Training loss"],
  ["evaluation", "evaluation", "Evaluation loss"],
  ["learning_rate", "rate", "Learning rate"],
  ["grad_norm", "gradient norm", "Gradient norm"],
  ["tokens_per_second", "speed", "Tokens per second"],
  ["memory_mb", "memory", "Memory, MB"],
];

// The page that compares the runs with these names.
export function Compare({ names }) {
  const { runs } = useStore();
  const present = names.filter((name) => runs.has(name));
  const compared = present.slice(0, MOST_COMPARED);
  if (compared.length < 2)
    return html`<${Head} title="Compare runs" />
      <div class="card empty">
        <p>Choose at least two runs in <a href=${link("runs")}>Runs</a>, then click Compare.</p>
      </div>`;
  return html`<${Comparison} names=${compared} left=${present.slice(MOST_COMPARED)} />`;
}

function Comparison({ names, left }) {
  const { runs, jobs } = useStore();
  const compared = names.map((name) => runs.get(name));
  const drawing = useDrawing(compared);
  const query = names.map((name) => ["name", name]);
  const found = useDiffering(apiPath("/studio/differing", query));
  const title = (name) => titleOf(runs.get(name), jobs);
  const place = (name) => names.indexOf(name);
  const all = names.length + left.length;
  return html`<${Head}
      title="Compare runs"
      about=${left.length ? `${names.length} of ${all} runs` : `${names.length} runs`}
    />${
      left.length > 0 &&
      html`<p class="banner note">
        Only the first ${MOST_COMPARED} chosen runs are compared. Not compared: ${left.map(title).join(", ")}.
      </p>`
    }<${Fault} error=${drawing.error || found.error} />
    <div class="stack">
      <${CurveTools} drawing=${drawing} />
      <${ComparedCurves} runs=${compared} drawing=${drawing} title=${title} />
      <${Results} runs=${compared} title=${title} />
      <div class="grid">
        <${Scatter}
          title="Quality against time"
          runs=${compared}
          x="seconds"
          unit="seconds in steps"
          name=${title}
          file="quality-time"
        /><${Scatter}
          title="Quality against memory"
          runs=${compared}
          x="memory_mb"
          unit="MB at the peak"
          name=${title}
          file="quality-memory"
        />
      </div>
      <${Intervals} names=${names.filter((name) => runs.get(name).report)} title=${title} place=${place} />
      <${ComparedSettings} names=${names} title=${title} ...${found} />
    </div>`;
}

// The curves of the runs, and the choices of the user: the curve, its axis and its smoothing. `metric` is the chosen
// metric of an objective, such as its rewards, and null if a curve of all runs is chosen instead.
function useDrawing(runs) {
  const [chosen, setCurve] = useState("loss");
  const drawn = useCurves(runs.map((run) => run.name));
  const metrics = [...new Set(runs.flatMap((run) => run.metrics))].sort();
  // The metric that was chosen for other runs may be missing in these.
  const metric = metrics.includes(chosen) ? chosen : null;
  const curve = metric || CURVES.some(([key]) => key === chosen) ? chosen : "loss";
  return { ...drawn, curve, setCurve, metrics, metric };
}

function CurveTools({ drawing }) {
  const { axis, setAxis, weight, setWeight, curve, setCurve, metrics, metric } = drawing;
  return html`<div class="tools">
    <${Segments} label="Curve" value=${curve} onChange=${setCurve} options=${CURVES} />${
      metrics.length > 0 &&
      html`<label
        >of the objective${" "}<select
          value=${metric || ""}
          onChange=${(event) => setCurve(event.target.value || "loss")}
        >
          <option value="">–</option>
          <${Options} options=${metrics.map((name) => [name, spaced(name)])} value=${metric} /></select
      ></label>`
    }<${Segments} label="Along" value=${axis} onChange=${setAxis} options=${AXES} /><label
      >smoothing${" "}<${Smoothing} weight=${weight} onChange=${setWeight}
    /></label>
  </div>`;
}

function ComparedCurves({ runs, drawing, title }) {
  const { curves, curve, metric, error } = drawing;
  const heading = metric ? spaced(metric) : CURVES.find(([key]) => key === curve)[2];
  const haveArrived = runs.every((run) => run.name in curves);
  return html`<${Plot}
    title=${heading}
    series=${runs.flatMap((run, place) => seriesOf(run, place, drawing, title))}
    along=${axisName(drawing.drawnAxis)}
    none=${placeholder(haveArrived, error)}
    height=${340}
    file="compare"
  />`;
}

// The chosen curve of a run; undefined if the run has none. A curve that is still loading has its line in the legend,
// so that nothing moves when it arrives.
function curveOf(run, { curves, curve, metric }) {
  const arrived = curves[run.name];
  if (arrived) return metric ? arrived.metrics[metric] : arrived[curve];
  if (metric) return run.metrics.includes(metric) ? BLANK : undefined;
  return (curve === "evaluation" ? run.evaluation_loss !== null : run.step > 0) ? BLANK : undefined;
}

function seriesOf(run, place, drawing, title) {
  const found = curveOf(run, drawing);
  if (!found || (run.name in drawing.curves && !found.x.length)) return [];
  const { x, y } = found;
  const name = title(run.name);
  if (drawing.curve === "evaluation") return [{ name, place, kind: "points", x, y }];
  if (!drawing.weight) return [{ name, place, kind: "line", x, y }];
  return [
    { name: `${name}, raw`, place, kind: "raw", unnamed: true, x, y },
    { name, place, kind: "line", x, y: smoothed(y, drawing.weight) },
  ];
}
