// A drawing of runs by their quality and their cost.
import { html, useRef } from "/static/library/preact.js";
import { short } from "/static/common/figures.js";
import { DrawingDownloads, colour } from "/static/common/parts.js";
import { useNarrow } from "/static/common/table.js";

// Runs by their loss and cost (`x`, a field of a run). For each objective, a line joins the runs that no other run
// beats in both. If several runs were evaluated, only evaluated runs are drawn. `name` gives the title of the run with
// a name.
export function Scatter({ title, runs, x, unit, name, file }) {
  const drawing = useRef(null);
  const isNarrow = useNarrow();
  const isEvaluated = runs.filter((run) => run.best_loss !== null).length > 1;
  const quality = isEvaluated ? "best evaluation loss" : "last training loss";
  const all = runs.map((run, place) => ({
    place,
    name: name(run.name),
    objective: run.objective,
    x: run[x],
    y: isEvaluated ? run.best_loss : run.loss,
  }));
  const points = all.filter((point) => point.x !== null && point.y !== null);
  if (!points.length)
    return html`<section class="card">
      <header><h2>${title}</h2></header>
      <p class="empty">Nothing was measured yet</p>
    </section>`;
  const absent = all.filter((point) => !points.includes(point));
  const front = paretoFront(points);
  const scale = scaled(points, isNarrow);
  const rows = () => [
    ["run", unit, quality, "objective", "on the Pareto front"],
    ...points.map((point) => [point.name, point.x, point.y, point.objective, front.includes(point) ? "yes" : "no"]),
  ];
  return html`<section class="card">
    <header>
      <h2>${title}</h2>
      <${DrawingDownloads} title=${title} drawing=${drawing} file=${file} rows=${rows} />
    </header>
    <p class="hint">${hint(objectivesOf(points), absent, isEvaluated)}</p>
    <svg
      ref=${drawing}
      viewBox=${`0 0 ${scale.width} ${scale.height}`}
      width="100%"
      role="img"
      aria-label=${`${title}: ${points.map(inWords).join("; ")}`}
      font-size="11"
      fill="var(--quiet)"
    >
      <${Drawing} points=${points} front=${front} scale=${scale} unit=${unit} quality=${quality} />
    </svg>
  </section>`;
}

const inWords = (point) => `${point.name} ${short(point.x)}, ${short(point.y)}`;
const objectivesOf = (points) => [...new Set(points.map((point) => point.objective))];

// The points that no other one beats in both values, from left to right. Losses of different objectives are not
// compared.
function paretoFront(points) {
  const isBeaten = (point) =>
    points.some(
      (other) =>
        other !== point &&
        other.objective === point.objective &&
        other.x <= point.x &&
        other.y <= point.y &&
        (other.x < point.x || other.y < point.y),
    );
  return points.filter((point) => !isBeaten(point)).sort((point, other) => point.x - other.x);
}

function hint(objectives, absent, isEvaluated) {
  const several =
    ` Losses of different objectives (${objectives.join(", ")}) cannot be compared, ` +
    "so each objective has its own line.";
  const reason = isEvaluated ? "they were not evaluated" : "they have no measurements";
  const left = ` Not drawn, since ${reason}: ${absent.map((point) => point.name).join(", ")}.`;
  return (
    "Lower left is better. The dashed line joins the runs that no other run beats in both (Pareto front)." +
    (objectives.length > 1 ? several : "") +
    (absent.length ? left : "")
  );
}

// A little more than the range of the values.
function rangeOf(values) {
  const low = Math.min(...values);
  const high = Math.max(...values);
  const room = (high - low || Math.abs(high) || 1) * 0.15;
  return [low < 0 ? low - room : Math.max(0, low - room), high + room];
}

// The size of the drawing and the place of values in it.
function scaled(points, isNarrow) {
  const [width, height] = [isNarrow ? 320 : 440, 260];
  const [left, right, top, bottom] = [62, width - 14, 12, height - 40];
  const [x0, x1] = rangeOf(points.map((point) => point.x));
  const [y0, y1] = rangeOf(points.map((point) => point.y));
  return {
    width,
    height,
    left,
    right,
    top,
    bottom,
    px: (x) => left + ((x - x0) / (x1 - x0)) * (right - left),
    py: (y) => bottom - ((y - y0) / (y1 - y0)) * (bottom - top),
    xAt: (part) => x0 + part * (x1 - x0),
    yAt: (part) => y1 - part * (y1 - y0),
  };
}

function Drawing({ points, front, scale, unit, quality }) {
  const { left, right, top, bottom, height, px, py } = scale;
  const labels = labelPlaces(points, scale);
  const line = (objective) =>
    front
      .filter((point) => point.objective === objective)
      .map((point) => `${px(point.x)},${py(point.y)}`)
      .join(" ");
  return html`${["start", "middle", "end"].map((anchor, place) => {
      const part = place / 2;
      const y = top + part * (bottom - top);
      return html`<g key=${anchor}
        ><line x1=${left} x2=${right} y1=${y} y2=${y} stroke="var(--line)" /><text
          x=${left - 7}
          y=${y + 4}
          text-anchor="end"
          >${short(scale.yAt(part))}</text
        ><text x=${left + part * (right - left)} y=${height - 23} text-anchor=${anchor}
          >${short(scale.xAt(part))}</text
        ></g
      >`;
    })}
    <text x=${(left + right) / 2} y=${height - 6} text-anchor="middle">${unit}</text>
    <text transform=${`translate(11 ${(top + bottom) / 2}) rotate(-90)`} text-anchor="middle">${quality}</text>
    ${objectivesOf(points).map(
      (objective) =>
        html`<polyline
          key=${objective}
          points=${line(objective)}
          fill="none"
          stroke="var(--quiet)"
          stroke-width="1.5"
          stroke-dasharray="4 4"
        />`,
    )}
    ${points.map(
      (point, index) =>
        html`<g key=${point.place}
          ><circle cx=${px(point.x)} cy=${py(point.y)} r="6" fill=${colour(point.place)}
            ><title>${point.name}: ${short(point.x)}, ${short(point.y)}</title></circle
          ><text x=${labels[index].x} y=${labels[index].y}>${labels[index].text}</text></g
        >`,
    )}`;
}

// The places for the names of points: next to each point, at the first of a few heights where no other name is in the
// way.
function labelPlaces(points, { px, py, width }) {
  const taken = [];
  return points.map((point) => {
    const text = point.name.slice(0, 20);
    const length = 6.3 * text.length;
    const isInside = px(point.x) + 10 + length <= width;
    const x = isInside ? px(point.x) + 10 : px(point.x) - 10 - length;
    const y = py(point.y);
    const isFree = (height) =>
      !taken.some((other) => Math.abs(other.y - height) < 12 && x < other.x + other.length && other.x < x + length);
    const height = [y - 8, y + 16, y - 21, y + 29, y - 34].find(isFree) ?? y - 8;
    taken.push({ x, y: height, length });
    return { x, y: height, text };
  });
}
