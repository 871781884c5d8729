// Runs side by side: overlaid curves, the settings that differ, quality against memory and time; and sweeps.
import { html, useEffect, useState } from "/static/preact.js";
import { Head, Pill, Segments, SortTable, Swatch, apiPath, ask, colour, duration, last, link, loss, number, short, shown, size, useStore } from "/static/lib.js";
import { Plot, smoothed } from "/static/plot.js";
import { ALONG, title, useCurves } from "/static/runs.js";

const IGNORED = new Set(["output"]);

export function useSettings(names) {
  const [found, set] = useState({});
  useEffect(() => {
    let left = false;
    Promise.all(names.map((name) => ask(apiPath("/studio/run", { name })))).then((all) => left || set(Object.fromEntries(all.map((one) => [one.record.name, Object.fromEntries(one.settings.map((setting) => [setting.key, setting.value]))]))), () => {});
    return () => { left = true; };
  }, [names.join("\n")]);
  return found;
}

export function differing(settings, names) {
  const keys = [...new Set(names.flatMap((name) => Object.keys(settings[name] || {})))].filter((key) => !IGNORED.has(key));
  return keys.filter((key) => new Set(names.map((name) => JSON.stringify((settings[name] || {})[key]))).size > 1);
}

export function Compare({ names }) {
  const { runs, jobs } = useStore();
  const [along, setAlong] = useState("step"), [weight, setWeight] = useState(0.9), [what, setWhat] = useState("loss");
  const shownNames = names.filter((name) => runs.has(name)).slice(0, 8);
  const curves = useCurves(shownNames, along), settings = useSettings(shownNames);
  const text = (name) => title(runs.get(name), jobs);
  const series = shownNames.flatMap((name, place) => {
    const one = curves[name] && curves[name][what];
    if (!one || !one.x.length) return [];
    const points = what === "evaluation";
    return [...(weight && !points ? [{ name: `${text(name)}, raw`, place, kind: "raw", hidden: true, ...one }] : []), { name: text(name), place, kind: points ? "points" : "line", x: one.x, y: weight && !points ? smoothed(one.y, weight) : one.y }];
  });
  const rows = differing(settings, shownNames);
  if (shownNames.length < 2) return html`<${Head} title="Compare runs" /><div class="card empty"><p>Choose at least two runs in <a href=${link("runs")}>Runs</a>, and then Compare.</p></div>`;
  return html`<${Head} title="Compare runs" about=${`${shownNames.length} runs`} /><div class="stack">
    <div class="tools"><${Segments} label="Curve" value=${what} onChange=${setWhat} options=${[["loss", "loss"], ["evaluation", "evaluation"], ["learning_rate", "rate"], ["grad_norm", "gradient norm"], ["tokens_per_second", "speed"], ["memory_mb", "memory"]]} /><${Segments} label="Along" value=${along} onChange=${setAlong} options=${ALONG.map(([key, name]) => [key, name])} /><label>smoothing <input type="range" min="0" max="0.99" step="0.01" value=${weight} onInput=${(event) => setWeight(Number(event.target.value))} /></label></div>
    <${Plot} title=${{ loss: "Training loss", evaluation: "Evaluation loss", learning_rate: "Learning rate", grad_norm: "Gradient norm", tokens_per_second: "Tokens a second", memory_mb: "Memory, MB" }[what]} series=${series} along=${along} height=${340} file="compare" />
    <section class="card flush"><header><h2>What they came to</h2></header><${SortTable} caption="Runs that are compared" keyOf=${(run) => run.name} rows=${shownNames.map((name) => runs.get(name))} columns=${[["name", "Run", (run) => html`<${Swatch} place=${shownNames.indexOf(run.name)} /><a href=${link("run", run.name)}>${text(run.name)}</a>`, (run) => run.name], ["state", "State", (run) => html`<${Pill} state=${run.state} />`, (run) => run.state], ["best_loss", "Best evaluation", (run) => loss(run.best_loss), (run) => run.best_loss, "num"], ["loss", "Last loss", (run) => loss(run.loss), (run) => run.loss, "num"], ["tokens", "Tokens", (run) => number(run.tokens), (run) => run.tokens, "num"], ["seconds", "Time", (run) => duration(run.seconds), (run) => run.seconds, "num"], ["memory_mb", "Memory", (run) => run.memory_mb === null ? "–" : size(run.memory_mb * 1e6), (run) => run.memory_mb, "num"]]} /></section>
    <div class="grid"><${Scatter} title="Quality against time" runs=${shownNames.map((name) => runs.get(name))} x="seconds" unit="seconds in steps" name=${text} /><${Scatter} title="Quality against memory" runs=${shownNames.map((name) => runs.get(name))} x="memory_mb" unit="MB at the peak" name=${text} /></div>
    <section class="card flush"><header><h2>Settings that differ</h2></header>${rows.length ? html`<div class="scroll"><table><thead><tr><th scope="col">Setting</th>${shownNames.map((name, place) => html`<th key=${name} scope="col"><${Swatch} place=${place} />${text(name)}</th>`)}</tr></thead><tbody>${rows.map((key) => html`<tr key=${key}><th scope="row" class="mono">${key}</th>${shownNames.map((name) => html`<td key=${name} class="mono">${shown((settings[name] || {})[key])}</td>`)}</tr>`)}</tbody></table></div>` : html`<p class="empty">No setting differs.</p>`}</section></div>`;
}

// Runs by their loss and what they cost; those that no other beats in both are joined.
export function Scatter({ title: heading, runs, x, unit, name }) {
  const points = runs.map((run, place) => ({ place, run, x: run[x], y: run.best_loss ?? run.loss })).filter((one) => one.x !== null && one.y !== null);
  const [width, height, left, bottom, top] = [420, 230, 56, 34, 10];
  const span = (values) => { const low = Math.min(...values), high = Math.max(...values), room = (high - low || Math.abs(high) || 1) * 0.12; return [low - room, high + room]; };
  if (!points.length) return html`<section class="card"><header><h2>${heading}</h2></header><p class="empty">Nothing was measured yet</p></section>`;
  const [x0, x1] = span(points.map((one) => one.x)), [y0, y1] = span(points.map((one) => one.y));
  const px = (value) => left + (value - x0) / (x1 - x0) * (width - left - 10), py = (value) => height - bottom - (value - y0) / (y1 - y0) * (height - bottom - top);
  const front = points.filter((one) => !points.some((other) => other !== one && other.x <= one.x && other.y <= one.y && (other.x < one.x || other.y < one.y))).sort((one, other) => one.x - other.x);
  return html`<section class="card"><header><h2>${heading}</h2><span class="quiet">lower left is better</span></header><svg viewBox=${`0 0 ${width} ${height}`} width="100%" role="img" aria-label=${`${heading}: ${points.map((one) => `${name(one.run.name)} ${short(one.x)}, ${short(one.y)}`).join("; ")}`}>
    ${[0, 0.5, 1].map((part) => html`<g key=${part} font-size="11" fill="var(--quiet)"><line x1=${left} x2=${width - 10} y1=${top + part * (height - bottom - top)} y2=${top + part * (height - bottom - top)} stroke="var(--line)" /><text x=${left - 7} y=${top + 4 + part * (height - bottom - top)} text-anchor="end">${short(Number((y1 - part * (y1 - y0)).toPrecision(4)))}</text><text x=${left + part * (width - left - 10)} y=${height - 18} text-anchor=${part === 1 ? "end" : "middle"}>${short(Number((x0 + part * (x1 - x0)).toPrecision(4)))}</text></g>`)}
    <text x=${(left + width) / 2} y=${height - 3} text-anchor="middle" font-size="11" fill="var(--quiet)">${unit}</text>
    <polyline points=${front.map((one) => `${px(one.x)},${py(one.y)}`).join(" ")} fill="none" stroke="var(--line-strong)" stroke-width="1.5" stroke-dasharray="4 4" />
    ${points.map((one) => html`<circle key=${one.run.name} cx=${px(one.x)} cy=${py(one.y)} r="6" fill=${colour(one.place)}><title>${name(one.run.name)}: ${short(one.x)}, ${short(one.y)}</title></circle>`)}</svg></section>`;
}

export function Sweeps() {
  const { runs } = useStore();
  const groups = new Map();
  for (const run of runs.values()) {
    const parent = run.name.split("/").slice(0, -1).join("/");
    if (parent) groups.set(parent, [...(groups.get(parent) || []), run]);
  }
  const found = [...groups].filter(([, members]) => members.length > 1);
  return html`<${Head} title="Sweeps" about="Folders with several runs, as veneer sweep and veneer compare make them" />
    ${found.length ? html`<div class="stack">${found.map(([parent, members]) => html`<${SweepCard} key=${parent} parent=${parent} members=${members} />`)}</div>` : html`<div class="card empty"><p>No sweep stands in this folder.</p><p><code>veneer sweep --grid train.learning_rate=1e-4,1e-3 --output FOLDER/rates</code> makes one; it appears here by itself.</p></div>`}`;
}

function SweepCard({ parent, members }) {
  const names = members.slice(0, 60).map((run) => run.name), settings = useSettings(names), keys = differing(settings, names);
  const best = members.reduce((one, other) => ((other.best_loss ?? other.loss ?? Infinity) < (one.best_loss ?? one.loss ?? Infinity) ? other : one));
  const columns = [["name", "Run", (run) => html`<a href=${link("run", run.name)}>${last(run.name)}</a>${run === best ? html` <span class="tag good">best</span>` : ""}`, (run) => run.name], ...keys.map((key) => [key, last(key.replace(/\./g, "/")), (run) => shown((settings[run.name] || {})[key]), (run) => (settings[run.name] || {})[key] ?? null, "num"]), ["state", "State", (run) => html`<${Pill} state=${run.state} />`, (run) => run.state], ["best_loss", "Best evaluation", (run) => loss(run.best_loss), (run) => run.best_loss, "num"], ["loss", "Last loss", (run) => loss(run.loss), (run) => run.loss, "num"], ["seconds", "Time", (run) => duration(run.seconds), (run) => run.seconds, "num"]];
  return html`<section class="card flush"><header><h2>${parent}</h2><span class="quiet">${number(members.length)} runs; differing: ${keys.join(", ") || "nothing"}</span><a class="btn small" href=${link("compare", "", { runs: JSON.stringify(names.slice(0, 8)) })}>Compare</a></header><${SortTable} caption=${`Runs of ${parent}`} columns=${columns} rows=${members} keyOf=${(run) => run.name} first=${{ key: "best_loss", down: false }} /></section>`;
}
