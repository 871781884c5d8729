// A line chart with uPlot: smoothed curves over the raw ones, a legend that follows the pointer, and downloads.
import { html, useEffect, useMemo, useRef, useState } from "/static/library/preact.js";
import { csvOf, download } from "/static/common/downloads.js";
import { plotted, short } from "/static/common/figures.js";
import { colour } from "/static/common/parts.js";
import { dashesOf, printedPlot } from "/static/plots/printed_plot.js";

// An exponential mean, corrected so that its first values are not too close to zero.
export function smoothed(values, weight) {
  let mean = 0;
  let count = 0;
  return values.map((value) => {
    if (value === null || !Number.isFinite(value)) return null;
    count += 1;
    mean = weight * mean + (1 - weight) * value;
    return mean / (1 - weight ** count);
  });
}

const css = (name) => getComputedStyle(document.documentElement).getPropertyValue(name).trim();
const paint = (place) => css(`--c${place % 8}`);

// Steps and tokens are counted: an axis of them has no ticks between whole numbers.
const WHOLE = Array.from({ length: 10 }, (_, power) => [1, 2, 5].map((digit) => digit * 10 ** power)).flat();

const lineOf = (series) => ({
  label: series.name,
  stroke: paint(series.place),
  width: series.kind === "raw" ? 1 : 2,
  alpha: series.kind === "raw" ? 0.4 : 1,
  dash: dashesOf(series),
  points: { show: series.kind === "points", size: 6, fill: paint(series.place) },
  spanGaps: true,
});

// What uPlot needs to know. `onPointer` is called with the place of the values under the pointer, or null.
function chartOptions({ series, along, isLog, width, height, onPointer }) {
  const axis = {
    stroke: css("--quiet"),
    grid: { stroke: css("--line"), width: 1 },
    ticks: { show: false },
    font: "11px system-ui, DejaVu Sans, sans-serif",
    values: (_, ticks) => ticks.map((tick) => (tick === null ? "" : plotted(tick))),
  };
  return {
    width,
    height,
    series: [{}, ...series.map(lineOf)],
    scales: { x: { time: false }, y: { distr: isLog ? 3 : 1 } },
    legend: { show: false },
    padding: [10, 10, 0, 0],
    axes: [
      { ...axis, size: 30, ...(along === "seconds" ? {} : { incrs: WHOLE }) },
      { ...axis, size: 58 },
    ],
    cursor: { y: false, points: { size: 7 }, drag: { x: true, y: false } },
    hooks: { setCursor: [({ cursor }) => onPointer(cursor.idx === undefined ? null : cursor.idx)] },
  };
}

// The number of changes between the light and the dark theme: after one, a chart needs other colours.
function useTheme() {
  const [theme, setTheme] = useState(0);
  useEffect(() => {
    const media = matchMedia("(prefers-color-scheme: dark)");
    const change = () => setTheme((count) => count + 1);
    media.addEventListener("change", change);
    return () => media.removeEventListener("change", change);
  }, []);
  return theme;
}

// Draws a chart in the element `host`, and returns the place of the values under the pointer, or null. The chart is
// made again if anything but its values changes.
function useChart({ host, data, series, along, isLog, isDrawn, height }) {
  const chart = useRef(null);
  const [pointed, setPointed] = useState(null);
  const theme = useTheme();
  const lines = series.map(({ name, place, kind }) => `${name}:${place}:${kind}`).join("|");
  useEffect(() => {
    const element = host.current;
    if (!element || !isDrawn) return () => {};
    const width = element.clientWidth || 400;
    const options = chartOptions({ series, along, isLog, width, height, onPointer: setPointed });
    const made = new uPlot(options, data, element);
    chart.current = made;
    const observer = new ResizeObserver(() =>
      made.setSize({ width: host.current ? host.current.clientWidth : 400, height }),
    );
    observer.observe(element);
    return () => {
      observer.disconnect();
      made.destroy();
      chart.current = null;
    };
  }, [lines, isLog, along, theme, isDrawn, height]);
  useEffect(() => {
    if (chart.current) chart.current.setData(data);
  }, [data]);
  return pointed;
}

// The value at a place, or the last one a little before it; without a place, the newest value.
function valueAt(values, place) {
  const isValue = (value) => value !== null && value !== undefined;
  if (place !== null)
    for (let back = place; back >= 0 && back > place - 400; back -= 1) if (isValue(values[back])) return values[back];
  return values.findLast(isValue) ?? null;
}

function toCsv(named, data, series, along) {
  const columns = named.map((one) => data[series.indexOf(one) + 1]);
  return csvOf([
    [along, ...named.map(({ name }) => name)],
    ...data[0].map((x, row) => [x, ...columns.map((column) => column[row])]),
  ]);
}

// The chart in words, for those who cannot see it: the first and the last value of each curve.
function inWords(title, along, named) {
  const curves = named.map(({ name, y }) => {
    const values = y.filter((value) => value !== null);
    return values.length ? `${name}: ${short(values[0])} to ${short(values[values.length - 1])}` : "";
  });
  return `${title} by ${along}. ${curves.filter(Boolean).join("; ")}`;
}

// A card with a line chart. A series is an object with the arrays `x` and `y`, its name, its `place` among the colours,
// and its kind: "line", "points", "raw" (thin) or "limit" (dashed). One that is `unnamed` is not in the legend.
// `along` is the name of the x axis, and `none` the text in the place of a chart without values.
export function Plot({
  title,
  unit,
  series,
  along = "step",
  log = false,
  height = 232,
  file = title,
  none = "Nothing was measured yet",
}) {
  const host = useRef(null);
  const isDrawn = series.some(({ x }) => x.length);
  const data = useMemo(() => (isDrawn ? uPlot.join(series.map(({ x, y }) => [x, y])) : [[]]), [series]);
  // Without a value above 0, a logarithmic scale is impossible.
  const isFlat = log && isDrawn && !series.some(({ y }) => y.some((value) => value > 0));
  const isLog = log && !isFlat;
  const pointed = useChart({ host, data, series, along, isLog, isDrawn, height });
  const named = series.filter(({ unnamed }) => !unnamed);
  const saveSvg = () =>
    download(`${file}.svg`, "image/svg+xml", printedPlot({ title, unit, series: named, along, isLog }));
  const saveCsv = () => download(`${file}.csv`, "text/csv", toCsv(named, data, series, along));
  const button = (kind, save) =>
    html`<button class="btn small" disabled=${!isDrawn} onClick=${save} aria-label=${`${title} as ${kind}`}>
      ${kind}
    </button>`;
  // The space is reserved before the figures arrive: otherwise the page would grow, and a button could move away under
  // a click.
  const room = `min-height: ${height}px`;
  return html`<section class="card plot">
    <header>
      <h2>${title}</h2>
      ${unit && html`<span class="quiet">${unit}</span>`}${button("SVG", saveSvg)}${button("CSV", saveCsv)}
    </header>
    ${isFlat && html`<p class="hint">No value is above 0, so the scale is linear.</p>`}
    <${Legend} series=${series} data=${data} along=${along} place=${isDrawn ? pointed : null} />
    ${
      isDrawn
        ? html`<div ref=${host} style=${room} role="img" aria-label=${inWords(title, along, named)} />`
        : html`<div ref=${host} style=${room}><p class="empty">${none}</p></div>`
    }
  </section>`;
}

// The names of the curves, each with its value under the pointer, or else its newest value.
function Legend({ series, data, along, place }) {
  return html`<div class="legend" aria-live="off">
    ${place !== null && html`<span>${along} <b>${plotted(data[0][place])}</b></span>`}
    ${series.map(
      (one, index) =>
        !one.unnamed &&
        html`<span key=${one.name}
          ><svg width="16" height="8" aria-hidden="true">
            <line
              x1="0"
              x2="16"
              y1="4"
              y2="4"
              stroke=${colour(one.place)}
              stroke-width=${one.kind === "raw" ? 1 : 2.5}
              stroke-dasharray=${dashesOf(one).join(" ")}
            /></svg
          >${one.name} <b>${plotted(valueAt(data[index + 1] || [], place))}</b></span
        >`,
    )}
  </div>`;
}
