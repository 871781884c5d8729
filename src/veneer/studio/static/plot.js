// A line chart with uPlot: smoothed curves over the raw ones, a legend that follows the pointer, and downloads as SVG and CSV.
import { html, useEffect, useMemo, useRef, useState } from "/static/preact.js";
import { csvOf, download, short } from "/static/figures.js";
import { colour } from "/static/parts.js";

// An exponential mean, corrected so that its first values are not too close to zero.
export function smoothed(values, weight) {
  let mean = 0,
    count = 0;
  return values.map((value) => {
    if (value === null || !Number.isFinite(value)) return null;
    count += 1;
    mean = weight * mean + (1 - weight) * value;
    return mean / (1 - weight ** count);
  });
}

const css = (name) => getComputedStyle(document.documentElement).getPropertyValue(name).trim();
const paint = (place) => css(`--c${place % 8}`);

export function Plot({
  title,
  about,
  series,
  unit,
  along = "step",
  log = false,
  height = 232,
  file = title,
  none = "Nothing was measured yet",
}) {
  const host = useRef(null),
    plot = useRef(null);
  const [at, setAt] = useState(null);
  const [theme, setTheme] = useState(0);
  const drawn = series.some((one) => one.x.length),
    data = useMemo(() => (drawn ? uPlot.join(series.map((one) => [one.x, one.y])) : [[]]), [series]);
  // Without a value above 0, a logarithmic scale is impossible.
  const flat = log && drawn && !series.some((one) => one.y.some((y) => y > 0)),
    curved = log && !flat;
  const shape = series.map((one) => `${one.name}:${one.place}:${one.kind}`).join("|") + curved + along + theme + drawn;
  useEffect(() => {
    const media = matchMedia("(prefers-color-scheme: dark)"),
      change = () => setTheme((count) => count + 1);
    media.addEventListener("change", change);
    return () => media.removeEventListener("change", change);
  }, []);
  useEffect(() => {
    if (!host.current || !drawn) return () => {};
    const axis = {
      stroke: css("--quiet"),
      grid: { stroke: css("--line"), width: 1 },
      ticks: { show: false },
      font: "11px system-ui, DejaVu Sans, sans-serif",
    };
    const lines = series.map((one) => ({
      label: one.name,
      stroke: paint(one.place),
      width: one.kind === "raw" ? 1 : 2,
      alpha: one.kind === "raw" ? 0.4 : 1,
      spanGaps: one.kind !== "line" || undefined,
      dash: one.kind === "limit" ? [5, 4] : undefined,
      points: { show: one.kind === "points", size: 6, fill: paint(one.place) },
    }));
    const made = new uPlot(
      {
        width: host.current.clientWidth || 400,
        height,
        series: [{}, ...lines.map((line) => ({ ...line, spanGaps: true }))],
        scales: { x: { time: false }, y: { distr: curved ? 3 : 1 } },
        legend: { show: false },
        padding: [10, 10, 0, 0],
        axes: [
          { ...axis, size: 30, values: (_, ticks) => ticks.map(short) },
          { ...axis, size: 58, values: (_, ticks) => ticks.map((tick) => (tick === null ? "" : short(tick))) },
        ],
        cursor: { y: false, points: { size: 7 }, drag: { x: true, y: false } },
        hooks: { setCursor: [(one) => setAt(one.cursor.idx === undefined ? null : one.cursor.idx)] },
      },
      data,
      host.current,
    );
    plot.current = made;
    const sizes = new ResizeObserver(() =>
      made.setSize({ width: host.current ? host.current.clientWidth : 400, height }),
    );
    sizes.observe(host.current);
    return () => {
      sizes.disconnect();
      made.destroy();
      plot.current = null;
    };
  }, [shape, height]);
  useEffect(() => {
    if (plot.current) plot.current.setData(data);
  }, [data]);
  const value = (place) => {
    const values = data[place + 1] || [];
    if (at !== null)
      for (let back = at; back >= 0 && back > at - 400; back -= 1)
        if (values[back] !== null && values[back] !== undefined) return values[back];
    for (let back = values.length - 1; back >= 0; back -= 1)
      if (values[back] !== null && values[back] !== undefined) return values[back];
    return null;
  };
  const named = series.filter((one) => !one.unnamed);
  const said = named
    .map((one) => {
      const values = one.y.filter((y) => y !== null);
      return values.length ? `${one.name}: ${short(values[0])} to ${short(values[values.length - 1])}` : "";
    })
    .filter(Boolean)
    .join("; ");
  // The space is reserved before the figures arrive: otherwise the page would grow, and a button could move away under a click.
  const room = `min-height: ${height}px`;
  return html`<section class="card plot">
    <header>
      <h2>${title}</h2>
      ${unit && html`<span class="quiet">${unit}</span>`}
      <button
        class="btn small"
        disabled=${!drawn}
        onClick=${() => download(`${file}.svg`, "image/svg+xml", toSvg(title, named, unit, along, curved))}
        aria-label=${`${title} as SVG`}
      >
        SVG
      </button>
      <button
        class="btn small"
        disabled=${!drawn}
        onClick=${() => download(`${file}.csv`, "text/csv", toCsv(named, data, series, along))}
        aria-label=${`${title} as CSV`}
      >
        CSV
      </button>
    </header>
    ${about && html`<p class="hint">${about}</p>`}${flat && html`<p class="hint">No value is above 0, so the scale is linear.</p>`}
    <div class="legend" aria-live="off">
      ${at !== null && drawn ? html`<span>${along} <b>${short(data[0][at])}</b></span>` : null}
      ${series.map((one, place) =>
        one.unnamed
          ? null
          : html`<span key=${one.name}
              ><svg width="16" height="8" aria-hidden="true">
                <line
                  x1="0"
                  x2="16"
                  y1="4"
                  y2="4"
                  stroke=${colour(one.place)}
                  stroke-width=${one.kind === "raw" ? 1 : 2.5}
                  stroke-dasharray=${one.kind === "limit" ? "4 3" : ""}
                /></svg
              >${one.name} <b>${short(value(place))}</b></span
            >`,
      )}
    </div>
    ${drawn ? html`<div ref=${host} style=${room} role="img" aria-label=${`${title} by ${along}. ${said}`} />` : html`<div ref=${host} style=${room}><p class="empty">${none}</p></div>`}
  </section>`;
}

function toCsv(named, data, series, along) {
  const places = named.map((one) => series.indexOf(one) + 1);
  return csvOf([
    [along, ...named.map((one) => one.name)],
    ...data[0].map((x, row) => [x, ...places.map((place) => data[place][row])]),
  ]);
}

// A chart as a separate SVG file, with colours for print. Names are escaped.
const PRINT = ["#2f5bd8", "#c2561b", "#23804a", "#8a3fb0", "#9a7200", "#b12a63", "#0b7285", "#5f6673"];
const escaped = (text) => String(text).replace(/[&<>"']/g, (letter) => `&#${letter.charCodeAt(0)};`);
function toSvg(title, series, unit, along, log) {
  const [width, height, left, right, top, bottom] = [760, 420, 66, 20, 56, 46];
  const usable = (y) => y !== null && Number.isFinite(y) && (!log || y > 0);
  const xs = series.flatMap((one) => one.x),
    ys = series.flatMap((one) => one.y.filter(usable)).map((y) => (log ? Math.log10(y) : y));
  let [x0, x1] = [xs.reduce((a, b) => Math.min(a, b), Infinity), xs.reduce((a, b) => Math.max(a, b), -Infinity)];
  let [y0, y1] = [ys.reduce((a, b) => Math.min(a, b), Infinity), ys.reduce((a, b) => Math.max(a, b), -Infinity)];
  if (x0 === x1) x1 = x0 + 1;
  if (!(y1 > y0)) [y0, y1] = [y0 - 0.5, y0 + 0.5];
  const px = (x) => left + ((x - x0) / (x1 - x0)) * (width - left - right);
  const py = (y) => height - bottom - (((log ? Math.log10(y) : y) - y0) / (y1 - y0)) * (height - top - bottom);
  const parts = [
    `<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 ${width} ${height}" width="${width}" height="${height}" font-family="system-ui, sans-serif" font-size="12" fill="#444"><rect width="100%" height="100%" fill="#fff"/><text x="${left}" y="24" font-size="15" font-weight="600" fill="#111">${escaped(title)}${unit ? ` (${escaped(unit)})` : ""}</text>`,
  ];
  for (let tick = 0; tick <= 4; tick += 1) {
    const y = y0 + ((y1 - y0) * tick) / 4,
      x = x0 + ((x1 - x0) * tick) / 4,
      line = height - bottom - ((height - top - bottom) * tick) / 4;
    parts.push(
      `<line x1="${left}" x2="${width - right}" y1="${line}" y2="${line}" stroke="#e4e7ec"/><text x="${left - 8}" y="${line + 4}" text-anchor="end">${short(log ? 10 ** y : y)}</text><text x="${px(x)}" y="${height - bottom + 18}" text-anchor="middle">${short(x)}</text>`,
    );
  }
  parts.push(`<text x="${(left + width - right) / 2}" y="${height - 8}" text-anchor="middle">${escaped(along)}</text>`);
  let legend = left;
  for (const one of series) {
    const stroke = PRINT[one.place % 8];
    let path = "",
      pen = "M";
    one.x.forEach((x, place) => {
      if (usable(one.y[place])) {
        path += `${pen}${px(x).toFixed(1)} ${py(one.y[place]).toFixed(1)}`;
        pen = "L";
      }
    });
    parts.push(
      `<path d="${path}" fill="none" stroke="${stroke}" stroke-width="${one.kind === "raw" ? 1 : 2}" stroke-opacity="${one.kind === "raw" ? 0.35 : 1}"/><line x1="${legend}" x2="${legend + 18}" y1="42" y2="42" stroke="${stroke}" stroke-width="3"/><text x="${legend + 23}" y="46">${escaped(one.name)}</text>`,
    );
    legend += 40 + 7 * one.name.length;
  }
  return `${parts.join("")}</svg>\n`;
}

// An SVG of the page as a file, with the colours of the page.
export function saveSvg(element, file) {
  const copy = element.cloneNode(true),
    box = element.viewBox.baseVal;
  copy.setAttribute("xmlns", "http://www.w3.org/2000/svg");
  copy.setAttribute("width", 2 * box.width);
  copy.setAttribute("height", 2 * box.height);
  copy.setAttribute("font-family", "system-ui, DejaVu Sans, sans-serif");
  const text = new XMLSerializer().serializeToString(copy).replace(/var\((--[a-z0-9-]+)\)/g, (_, name) => css(name));
  download(
    `${file}.svg`,
    "image/svg+xml",
    text.replace(/>/, `><rect width="100%" height="100%" fill="${css("--panel")}"/>`),
  );
}
