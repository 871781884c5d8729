// The plots of one run, with the choices of their axis, smoothing and scale.
import { html, useState } from "/static/library/preact.js";
import { AXES, BLANK, axisName, placeholder, useCurves } from "/static/plots/curves.js";
import { last, spaced } from "/static/common/figures.js";
import { Segments, Smoothing } from "/static/common/parts.js";
import { Plot, smoothed } from "/static/plots/plot.js";
import { apiPath } from "/static/common/requests.js";
import { isImitation } from "/static/runs/run_state.js";

// The curves of a run (undefined before they arrive), the first error, and the choices of the user.
export function useRunCurves(name) {
  const [isLog, setLog] = useState(false);
  const drawn = useCurves([name]);
  return { ...drawn, curves: drawn.curves[name], isLog, setLog };
}

// All plots of a run, and the tools above them. `drawing` is what `useRunCurves` returns.
export function RunPlots({ run, drawing, plannedMemory }) {
  const { curves, weight, isLog } = drawing;
  const name = last(run.name);
  const shared = {
    along: axisName(drawing.drawnAxis),
    none: placeholder(curves, drawing.error),
  };
  const plot = (title, file, series, unit) =>
    html`<${Plot} title=${title} unit=${unit} series=${series} file=${`${name}-${file}`} ...${shared} />`;
  const line = (key, text, place) => lineOf(run, curves, key, text, place);
  return html`<${PlotTools} name=${run.name} drawing=${drawing} />
    <div class="grid">
      <div class="wide">
        <${Plot}
          title="Loss"
          unit=${isImitation(run) ? "nats per supervised token" : "of the objective"}
          series=${lossSeries(run, curves, weight)}
          log=${isLog}
          height=${300}
          file=${`${name}-loss`}
          ...${shared}
        />
      </div>
      ${plot("Learning rate", "rate", line("learning_rate", "rate", 0))}
      ${plot("Gradient norm", "norm", line("grad_norm", "before clipping", 3))}
      ${plot("Speed", "speed", line("tokens_per_second", "tokens/s", 2), "tokens per second")}
      ${plot("Memory", "memory", memorySeries(run, curves, plannedMemory), "MB at the peak")}
      ${metricGroups(run, curves).map(([group, metrics]) => {
        const series = metrics.map(([metric, { x, y }], place) => ({
          name: spaced(metric),
          place,
          kind: "line",
          x,
          y: weight ? smoothed(y, weight) : y,
        }));
        return html`<${Plot}
          key=${group}
          title=${groupTitle(group)}
          unit="of the objective"
          series=${series}
          file=${`${name}-${group}`}
          ...${shared}
        />`;
      })}
    </div>`;
}

function PlotTools({ name, drawing }) {
  const { axis, setAxis, weight, setWeight, isLog, setLog } = drawing;
  return html`<div class="tools">
    <${Segments} label="Along" value=${axis} onChange=${setAxis} options=${AXES} />
    <label>
      smoothing${" "}<${Smoothing} weight=${weight} onChange=${setWeight} />${" "}<span class="mono"
        >${weight.toFixed(2)}</span
      >
    </label>
    <label><input type="checkbox" checked=${isLog} onChange=${() => setLog(!isLog)} /> logarithmic loss</label>
    <a class="btn small" href=${apiPath("/studio/curves", { name, format: "csv" })} download>every step as CSV</a>
  </div>`;
}

const curveOf = (curves, key) => (curves ? curves[key] : BLANK);

// Whether the run has a curve. A curve has its line in the legend before its figures arrive, so that nothing moves
// then.
function hasCurve(run, curves, key) {
  if (curves) return curves[key].x.length > 0;
  return key === "evaluation" ? run.evaluation_loss !== null : run.step > 0;
}

const lineOf = (run, curves, key, name, place) =>
  hasCurve(run, curves, key) ? [{ name, place, kind: "line", ...curveOf(curves, key) }] : [];

function lossSeries(run, curves, weight) {
  if (!hasCurve(run, curves, "loss")) return [];
  const training = curveOf(curves, "loss");
  const single = { name: "single steps", place: 0, kind: "raw", ...training };
  const evaluation = { name: "evaluation", place: 1, kind: "points", ...curveOf(curves, "evaluation") };
  return [
    ...(weight ? [single] : []),
    {
      name: weight ? "training, smoothed" : "training",
      place: 0,
      kind: "line",
      x: training.x,
      y: weight ? smoothed(training.y, weight) : training.y,
    },
    ...(hasCurve(run, curves, "evaluation") ? [evaluation] : []),
  ];
}

function memorySeries(run, curves, planned) {
  const measured = lineOf(run, curves, "memory_mb", "measured", 0);
  if (planned === null || !measured.length) return measured;
  const { x } = curveOf(curves, "memory_mb");
  return [...measured, { name: "plan", place: 1, kind: "limit", x, y: x.map(() => planned) }];
}

// The metrics of the objective with their curves, grouped by the word before the slash: rewards/chosen and
// rewards/rejected share one plot. Rewards come first.
function metricGroups(run, curves) {
  const groups = new Map();
  for (const metric of run.metrics) {
    const [group, ...rest] = metric.split("/");
    const curve = (curves && curves.metrics[metric]) || BLANK;
    groups.set(group, [...(groups.get(group) || []), [rest.join("/") || group, curve]]);
  }
  return [...groups].sort(([group], [other]) => other.startsWith("reward") - group.startsWith("reward"));
}

const GROUPS = {
  rewards: "Rewards",
  reward: "Reward",
  logps: "Log-probabilities",
  kl: "KL",
  frac_reward_zero_std: "Share of groups whose rewards are all equal",
  reward_std: "Standard deviation of rewards",
};
const groupTitle = (group) => GROUPS[group] || `${group[0].toUpperCase()}${spaced(group.slice(1))}`;
