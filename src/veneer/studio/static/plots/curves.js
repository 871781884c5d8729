// The curves of runs, kept up to date while the runs go on, with the choices of their axis and smoothing.
import { useRef, useState } from "/static/library/preact.js";
import { errorIn, useAnswers } from "/static/common/hooks.js";
import { apiPath } from "/static/common/requests.js";
import { useStore } from "/static/common/store.js";

// The axes that curves can be drawn along: the name at the studio, and the name on the pages.
export const AXES = [
  ["step", "step"],
  ["tokens", "tokens"],
  ["time", "seconds"],
];

// The name of an axis on the pages.
export const axisName = (axis) => (AXES.find(([key]) => key === axis) || AXES[0])[1];

// A curve that is still loading.
export const BLANK = { x: [], y: [] };

// The text in the place of a plot without values; undefined once the curves have arrived.
export const placeholder = (hasArrived, error) =>
  hasArrived ? undefined : error ? "The figures could not be loaded" : "Loading …";

// The curves of the runs that have arrived, by their names, with the user's choices of the axis and the smoothing.
// After a change of the axis, the curves of the old one (`drawnAxis`) stay until all new ones are there.
export function useCurves(wanted) {
  const [axis, setAxis] = useState("step");
  const [weight, setWeight] = useState(0.9);
  const { runs } = useStore();
  const complete = useRef({ axis, curves: {} });
  const names = wanted.filter((name) => runs.has(name));
  const progress = names.map((name) => `${runs.get(name).step}:${runs.get(name).evaluation_loss}`).join("|");
  const answers = useAnswers(
    names.map((name) => apiPath("/studio/curves", { name, along: axis })),
    progress,
    700,
  );
  const arrived = names
    .map((name, place) => [name, answers[place].value])
    .filter(([, value]) => value)
    .map(([name, value]) => [name, { ...value.curves, metrics: value.metrics }]);
  const curves = Object.fromEntries(arrived);
  if (names.every((name) => name in curves)) complete.current = { axis, curves };
  const drawn = complete.current.axis === axis ? { axis, curves } : complete.current;
  const error = errorIn(answers);
  return { curves: drawn.curves, drawnAxis: drawn.axis, error, axis, setAxis, weight, setWeight };
}
