// A line chart as an SVG file of its own, with colours for print.
import { plotted } from "/static/common/figures.js";

const COLOURS = ["#2f5bd8", "#c2561b", "#23804a", "#8a3fb0", "#9a7200", "#b12a63", "#0b7285", "#5f6673"];
const [WIDTH, HEIGHT, LEFT, RIGHT, TOP, BOTTOM] = [760, 420, 66, 20, 56, 46];
const [LEGEND_ROW, LONGEST_NAME] = [18, 90];
const QUARTERS = [0, 1, 2, 3, 4].map((tick) => tick / 4);

// The dashes of a curve: those of a limit, or of a curve whose colour an earlier one has already.
export const dashesOf = ({ kind, place }) =>
  kind === "limit" ? [5, 4] : [[], [9, 3], [2, 3], [9, 3, 2, 3]][Math.floor(place / COLOURS.length) % 4];

const escaped = (text) => String(text).replace(/[&<>"']/g, (letter) => `&#${letter.charCodeAt(0)};`);

// Loops, since a call with hundreds of thousands of arguments fails.
const least = (values) => values.reduce((low, value) => Math.min(low, value), Infinity);
const greatest = (values) => values.reduce((high, value) => Math.max(high, value), -Infinity);

// The ranges of the axes, and the place of a value in the drawing. On a logarithmic scale, heights are those of the
// values' logarithms.
function scalesOf(series, isLog) {
  const isDrawable = (y) => y !== null && Number.isFinite(y) && (!isLog || y > 0);
  const heightOf = (y) => (isLog ? Math.log10(y) : y);
  const xs = series.flatMap(({ x }) => x);
  const heights = series.flatMap(({ y }) => y.filter(isDrawable)).map(heightOf);
  const [x0, xEnd] = [least(xs), greatest(xs)];
  const x1 = x0 === xEnd ? x0 + 1 : xEnd;
  let [y0, y1] = [least(heights), greatest(heights)];
  if (!(y1 > y0)) [y0, y1] = [y0 - 0.5, y0 + 0.5];
  return {
    isDrawable,
    left: (x) => LEFT + ((x - x0) / (x1 - x0)) * (WIDTH - LEFT - RIGHT),
    top: (y) => HEIGHT - BOTTOM - ((heightOf(y) - y0) / (y1 - y0)) * (HEIGHT - TOP - BOTTOM),
    xAt: (part) => x0 + (x1 - x0) * part,
    yAt: (part) => (isLog ? 10 ** (y0 + (y1 - y0) * part) : y0 + (y1 - y0) * part),
  };
}

function axes(scales, along) {
  const rows = QUARTERS.map((part) => {
    const line = HEIGHT - BOTTOM - (HEIGHT - TOP - BOTTOM) * part;
    return (
      `<line x1="${LEFT}" x2="${WIDTH - RIGHT}" y1="${line}" y2="${line}" stroke="#e4e7ec"/>` +
      `<text x="${LEFT - 8}" y="${line + 4}" text-anchor="end">${plotted(scales.yAt(part))}</text>`
    );
  });
  // Steps and tokens are whole numbers.
  const ticks = QUARTERS.map(scales.xAt).map((x) => (along === "seconds" ? x : Math.round(x)));
  const columns = [...new Set(ticks)].map(
    (x) => `<text x="${scales.left(x)}" y="${HEIGHT - BOTTOM + 18}" text-anchor="middle">${plotted(x)}</text>`,
  );
  const middle = (LEFT + WIDTH - RIGHT) / 2;
  const name = `<text x="${middle}" y="${HEIGHT - 8}" text-anchor="middle">${escaped(along)}</text>`;
  return [...rows, ...columns, name].join("");
}

function curve(one, scales, stroke) {
  const { x, y, kind } = one;
  const points = x
    .map((value, row) => [value, y[row]])
    .filter(([, value]) => scales.isDrawable(value))
    .map(([px, py]) => [scales.left(px).toFixed(1), scales.top(py).toFixed(1)]);
  const [width, opacity] = kind === "raw" ? [1, 0.35] : [2, 1];
  const path = points.length ? `M${points.map((point) => point.join(" ")).join("L")}` : "";
  const line =
    `<path d="${path}" fill="none" stroke="${stroke}" stroke-width="${width}" stroke-opacity="${opacity}" ` +
    `stroke-dasharray="${dashesOf(one).join(" ")}"/>`;
  // Without dots, a single evaluation would be invisible.
  const dots = kind === "points" ? points : [];
  return line + dots.map(([cx, cy]) => `<circle cx="${cx}" cy="${cy}" r="3" fill="${stroke}"/>`).join("");
}

// The names of the curves in rows as wide as the drawing, with the number of rows.
function legendOf(series) {
  let [left, row] = [LEFT, 0];
  const names = series.map((one) => {
    const name = one.name.length > LONGEST_NAME ? `${one.name.slice(0, LONGEST_NAME - 1)}…` : one.name;
    const width = 40 + 7 * name.length;
    if (left > LEFT && left + width > WIDTH) [left, row] = [LEFT, row + 1];
    const [x, y] = [left, 42 + LEGEND_ROW * row];
    left += width;
    return (
      `<line x1="${x}" x2="${x + 18}" y1="${y}" y2="${y}" stroke="${strokeOf(one)}" stroke-width="3" ` +
      `stroke-dasharray="${dashesOf(one).join(" ")}"/><text x="${x + 23}" y="${y + 4}">${escaped(name)}</text>`
    );
  });
  return { names: names.join(""), rows: row + 1 };
}

const strokeOf = ({ place }) => COLOURS[place % COLOURS.length];

// The text of an SVG file with these series, as those of `Plot`.
export function printedPlot({ title, unit, series, along, isLog }) {
  const scales = scalesOf(series, isLog);
  const heading = `${escaped(title)}${unit ? ` (${escaped(unit)})` : ""}`;
  const legend = legendOf(series);
  // Further rows of the legend move the chart down.
  const down = LEGEND_ROW * (legend.rows - 1);
  const [width, height] = [WIDTH, HEIGHT + down];
  const parts = [
    `<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 ${width} ${height}" width="${width}" height="${height}" `,
    `font-family="system-ui, sans-serif" font-size="12" fill="#444"><rect width="100%" height="100%" fill="#fff"/>`,
    `<text x="${LEFT}" y="24" font-size="15" font-weight="600" fill="#111">${heading}</text>${legend.names}`,
    `<g transform="translate(0 ${down})">${axes(scales, along)}`,
    ...series.map((one) => curve(one, scales, strokeOf(one))),
  ];
  return `${parts.join("")}</g></svg>\n`;
}
