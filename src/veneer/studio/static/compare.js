// The pages Compare and Sweeps: runs with overlaid curves, the settings that differ, quality against memory and time.
import { html, useRef, useState } from "/static/preact.js";
import { apiPath, useEach, useStore } from "/static/lib.js";
import { counted, csvOf, download, duration, last, link, loss, number, short, shown, size } from "/static/figures.js";
import { Fault, Head, Pill, Segments, SortTable, Swatch, Table, colour, useNarrow } from "/static/parts.js";
import { Plot, saveSvg, smoothed } from "/static/plot.js";
import { ALONG, BLANK, noneOf, title, useCurves } from "/static/runs.js";

// The largest number of runs that are compared at once: there are eight distinct colours.
const MOST_COMPARED = 8;
const IGNORED = new Set(["output"]);

// The settings of the runs that have arrived, by their names; whether others are still loading; and the first error.
function useSettings(names) {
  const found = useEach(names.map((name) => apiPath("/studio/run", { name })));
  const known = found.flatMap(({ value }, at) =>
    value ? [[names[at], Object.fromEntries(value.settings.map((setting) => [setting.key, setting.value]))]] : [],
  );
  return {
    settings: Object.fromEntries(known),
    waits: found.some((one) => !one.value && !one.error),
    error: (found.find((one) => one.error) || { error: null }).error,
  };
}

function differing(settings, names) {
  const known = names.filter((name) => name in settings),
    keys = [...new Set(known.flatMap((name) => Object.keys(settings[name])))].filter((key) => !IGNORED.has(key));
  return keys.filter((key) => new Set(known.map((name) => JSON.stringify(settings[name][key]))).size > 1);
}

const CURVES = [
  ["loss", "loss", "Training loss"],
  ["evaluation", "evaluation", "Evaluation loss"],
  ["learning_rate", "rate", "Learning rate"],
  ["grad_norm", "gradient norm", "Gradient norm"],
  ["tokens_per_second", "speed", "Tokens per second"],
  ["memory_mb", "memory", "Memory, MB"],
];

export function Compare({ names }) {
  const { runs, jobs } = useStore();
  const [along, setAlong] = useState("step"),
    [weight, setWeight] = useState(0.9),
    [chosen, setWhat] = useState("loss");
  const present = names.filter((name) => runs.has(name)),
    shownNames = present.slice(0, MOST_COMPARED),
    left = present.slice(MOST_COMPARED);
  const drawn = useCurves(shownNames, along),
    { curves } = drawn,
    { settings, waits, error } = useSettings(shownNames);
  const text = (name) => title(runs.get(name), jobs),
    objective = (name) => runs.get(name).objective;
  // Metrics of some objectives, such as rewards. The metric that was chosen for other runs may be missing in these.
  const metrics = [...new Set(shownNames.flatMap((name) => runs.get(name).metrics))].sort(),
    own = metrics.includes(chosen) ? chosen : null,
    what = own || CURVES.some((one) => one[0] === chosen) ? chosen : "loss";
  // A curve that is still loading has its line in the legend, so that nothing moves when it arrives.
  const expected = (run) =>
    own ? run.metrics.includes(own) : what === "evaluation" ? run.evaluation_loss !== null : run.step > 0;
  const curve = (name) => {
    const one = curves[name];
    return one ? (own ? one.metrics[own] : one[what]) : expected(runs.get(name)) ? BLANK : undefined;
  };
  const series = shownNames.flatMap((name, place) => {
    const one = curve(name);
    if (!one || (name in curves && !one.x.length)) return [];
    const points = what === "evaluation";
    return [
      ...(weight && !points ? [{ name: `${text(name)}, raw`, place, kind: "raw", unnamed: true, ...one }] : []),
      {
        name: text(name),
        place,
        kind: points ? "points" : "line",
        x: one.x,
        y: weight && !points ? smoothed(one.y, weight) : one.y,
      },
    ];
  });
  const rows = differing(settings, shownNames),
    metric = judgedBy(shownNames.map((name) => runs.get(name)));
  if (shownNames.length < 2)
    return html`<${Head} title="Compare runs" />
      <div class="card empty">
        <p>Choose at least two runs in <a href=${link("runs")}>Runs</a>, then click Compare.</p>
      </div>`;
  return html`<${Head}
      title="Compare runs"
      about=${left.length ? `${shownNames.length} of ${present.length} runs` : `${shownNames.length} runs`}
    />${left.length > 0 && html`<p class="banner note">Only the first ${MOST_COMPARED} chosen runs are compared. Not compared: ${left.map(text).join(", ")}.</p>`}<${Fault}
      error=${drawn.error || error}
    />
    <div class="stack">
      <div class="tools">
        <${Segments} label="Curve" value=${what} onChange=${setWhat} options=${CURVES} />${
          metrics.length > 0 &&
          html`<label
            >of the objective${" "}<select
              value=${own || ""}
              onChange=${(event) => setWhat(event.target.value || "loss")}
            >
              <option value="">–</option>
              ${metrics.map((name) => html`<option key=${name} value=${name} selected=${name === own}>${name.replace(/_/g, " ")}</option>`)}
            </select></label
          >`
        }<${Segments}
          label="Along"
          value=${along}
          onChange=${setAlong}
          options=${ALONG.map(([key, name]) => [key, name])}
        /><label
          >smoothing${" "}<input
            type="range"
            min="0"
            max="0.99"
            step="0.01"
            value=${weight}
            onInput=${(event) => setWeight(Number(event.target.value))}
        /></label>
      </div>
      <${Plot}
        title=${own ? own.replace(/_/g, " ") : CURVES.find((one) => one[0] === what)[2]}
        series=${series}
        along=${drawn.along}
        none=${noneOf(
          shownNames.every((name) => name in curves),
          drawn.error,
        )}
        height=${340}
        file="compare"
      />
      <section class="card flush">
        <header><h2>Results</h2></header>
        <${SortTable}
          caption="Runs that are compared"
          keyOf=${(run) => run.name}
          rows=${shownNames.map((name) => runs.get(name))}
          columns=${[["name", "Run", (run) => html`<${Swatch} place=${shownNames.indexOf(run.name)} /><a href=${link("run", run.name)}>${text(run.name)}</a>`, (run) => text(run.name), "lead"], ["state", "State", (run) => html`<${Pill} state=${run.state} />`, (run) => run.state], ...(metric ? [["best_value", `Best ${metric}`, (run) => short(run.best_value), (run) => run.best_value, "num"]] : []), ["best_loss", "Best evaluation", (run) => loss(run.best_loss), (run) => run.best_loss, "num"], ["loss", "Last loss", (run) => loss(run.loss), (run) => run.loss, "num"], ["tokens", "Tokens", (run) => number(run.tokens), (run) => run.tokens, "num"], ["seconds", "Time", (run) => duration(run.seconds), (run) => run.seconds, "num"], ["memory_mb", "Memory", (run) => (run.memory_mb === null ? "–" : size(run.memory_mb * 1e6)), (run) => run.memory_mb, "num"]]}
        />
      </section>
      <div class="grid">
        <${Scatter}
          title="Quality against time"
          runs=${shownNames.map((name) => runs.get(name))}
          x="seconds"
          unit="seconds in steps"
          name=${text}
          objective=${objective}
          file="quality-time"
        /><${Scatter}
          title="Quality against memory"
          runs=${shownNames.map((name) => runs.get(name))}
          x="memory_mb"
          unit="MB at the peak"
          name=${text}
          objective=${objective}
          file="quality-memory"
        />
      </div>
      <${Intervals}
        names=${shownNames.filter((name) => runs.get(name).report)}
        text=${text}
        place=${(name) => shownNames.indexOf(name)}
      />
      <section class="card flush">
        <header><h2>Settings that differ</h2></header>
        ${rows.length && !waits ? html`<${Table} caption="Settings that differ" columns=${[["key", "Setting", (key) => key, false, "mono lead"], ...shownNames.map((name) => [name, text(name), (key) => shown((settings[name] || {})[key]), false, "mono fitted"])]} rows=${rows} keyOf=${(key) => key} head=${([key, heading]) => (key === "key" ? heading : html`<${Swatch} place=${shownNames.indexOf(key)} />${heading}`)} />` : html`<p class="empty">${waits ? "Loading …" : error ? "The settings of some runs could not be loaded." : "No setting differs."}</p>`}
      </section>
    </div>`;
}

// The buttons that download a drawing.
const Take = ({ title, drawing, file, rows }) =>
  html`<button class="btn small" aria-label=${`${title} as SVG`} onClick=${() => saveSvg(drawing.current, file)}>
      SVG</button
    ><button
      class="btn small"
      aria-label=${`${title} as CSV`}
      onClick=${() => download(`${file}.csv`, "text/csv", csvOf(rows()))}
    >
      CSV
    </button>`;

// Runs by their loss and cost. For each objective, a line joins the runs that no other run beats in both. If several runs
// were evaluated, only evaluated runs are drawn.
function Scatter({ title: heading, runs, x, unit, name, objective, file }) {
  const drawing = useRef(null),
    narrow = useNarrow();
  const measured = runs.filter((run) => run.best_loss !== null).length > 1,
    quality = measured ? "best evaluation loss" : "last training loss";
  const all = runs.map((run, place) => ({
    place,
    run,
    kind: objective(run.name),
    x: run[x],
    y: measured ? run.best_loss : run.loss,
  }));
  const points = all.filter((one) => one.x !== null && one.y !== null),
    absent = all.filter((one) => !points.includes(one)),
    kinds = [...new Set(points.map((one) => one.kind))];
  const [width, height, left, right, bottom, top] = [narrow ? 320 : 440, 260, 62, 14, 40, 12];
  const span = (values) => {
    const low = Math.min(...values),
      high = Math.max(...values),
      room = (high - low || Math.abs(high) || 1) * 0.15;
    return [low < 0 ? low - room : Math.max(0, low - room), high + room];
  };
  if (!points.length)
    return html`<section class="card">
      <header><h2>${heading}</h2></header>
      <p class="empty">Nothing was measured yet</p>
    </section>`;
  const [x0, x1] = span(points.map((one) => one.x)),
    [y0, y1] = span(points.map((one) => one.y));
  const px = (value) => left + ((value - x0) / (x1 - x0)) * (width - left - right),
    py = (value) => height - bottom - ((value - y0) / (y1 - y0)) * (height - bottom - top);
  const best = (one) =>
    !points.some(
      (other) =>
        other !== one &&
        other.kind === one.kind &&
        other.x <= one.x &&
        other.y <= one.y &&
        (other.x < one.x || other.y < one.y),
    );
  const front = points.filter(best).sort((one, other) => one.x - other.x);
  const rows = () => [
    ["run", unit, quality, "objective", "on the Pareto front"],
    ...points.map((one) => [name(one.run.name), one.x, one.y, one.kind, front.includes(one) ? "yes" : "no"]),
  ];
  const tick = (value) => short(Number(value.toPrecision(4)));
  const labels = placed(
    points.map((one) => ({ x: px(one.x), y: py(one.y), text: name(one.run.name).slice(0, 20) })),
    width,
  );
  return html`<section class="card">
    <header>
      <h2>${heading}</h2>
      <${Take} title=${heading} drawing=${drawing} file=${file} rows=${rows} />
    </header>
    <p class="hint">
      Lower left is better. The dashed line joins the runs that no other run beats in both (Pareto
      front).${kinds.length > 1 ? ` Losses of different objectives (${kinds.join(", ")}) cannot be compared, so each objective has its own line.` : ""}${absent.length ? ` Not drawn, since ${measured ? "they were not evaluated" : "they have no measurements"}: ${absent.map((one) => name(one.run.name)).join(", ")}.` : ""}
    </p>
    <svg
      ref=${drawing}
      viewBox=${`0 0 ${width} ${height}`}
      width="100%"
      role="img"
      aria-label=${`${heading}: ${points.map((one) => `${name(one.run.name)} ${short(one.x)}, ${short(one.y)}`).join("; ")}`}
      font-size="11"
      fill="var(--quiet)"
    >
      ${[0, 0.5, 1].map((part) => {
        const y = top + part * (height - bottom - top),
          at = left + part * (width - left - right);
        return html`<g key=${part}
          ><line x1=${left} x2=${width - right} y1=${y} y2=${y} stroke="var(--line)" /><text
            x=${left - 7}
            y=${y + 4}
            text-anchor="end"
            >${tick(y1 - part * (y1 - y0))}</text
          ><text x=${at} y=${height - 23} text-anchor=${["start", "middle", "end"][2 * part]}
            >${tick(x0 + part * (x1 - x0))}</text
          ></g
        >`;
      })}
      <text x=${(left + width - right) / 2} y=${height - 6} text-anchor="middle">${unit}</text>
      <text transform=${`translate(11 ${(top + height - bottom) / 2}) rotate(-90)`} text-anchor="middle">
        ${quality}
      </text>
      ${kinds.map(
        (kind) =>
          html`<polyline
            key=${kind}
            points=${front
              .filter((one) => one.kind === kind)
              .map((one) => `${px(one.x)},${py(one.y)}`)
              .join(" ")}
            fill="none"
            stroke="var(--quiet)"
            stroke-width="1.5"
            stroke-dasharray="4 4"
          />`,
      )}
      ${points.map(
        (one, at) =>
          html`<g key=${one.run.name}
            ><circle cx=${px(one.x)} cy=${py(one.y)} r="6" fill=${colour(one.place)}
              ><title>${name(one.run.name)}: ${short(one.x)}, ${short(one.y)}</title></circle
            ><text x=${labels[at].x} y=${labels[at].y}>${labels[at].text}</text></g
          >`,
      )}
    </svg>
  </section>`;
}

// The places for the names of points: next to each point, at the first of a few heights where no other name is in the way.
function placed(points, width) {
  const taken = [];
  return points.map(({ x, y, text }) => {
    const wide = 6.3 * text.length,
      left = x + 10 + wide > width ? x - 10 - wide : x + 10;
    const free = (at) =>
      !taken.some((one) => Math.abs(one.y - at) < 12 && left < one.x + one.wide && one.x < left + wide);
    const at = [y - 8, y + 16, y - 21, y + 29, y - 34].find(free) ?? y - 8;
    taken.push({ x: left, y: at, wide });
    return { x: left, y: at, text };
  });
}

// The comparison of each run with its base, from its report: a dot for the difference, a line for its 95 % interval.
function Intervals({ names, text, place }) {
  const found = useEach(names.map((name) => apiPath("/studio/report", { name }))),
    reports = Object.fromEntries(names.map((name, at) => [name, found[at].value]));
  const [wanted, want] = useState(""),
    drawing = useRef(null),
    narrow = useNarrow(),
    { error } = found.find((one) => one.error) || { error: null };
  const measures = [
    ...new Set(names.flatMap((name) => (reports[name] ? reports[name].report.comparison.map((one) => one.name) : []))),
  ];
  if (!measures.length)
    return (
      error &&
      html`<section class="card">
        <header><h2>Evaluation with intervals</h2></header>
        <${Fault} error=${error} />
      </section>`
    );
  const measure = measures.includes(wanted) ? wanted : measures[0];
  const rows = names.flatMap((name) => {
    const one = reports[name] && reports[name].report.comparison.find((found) => found.name === measure);
    return one && one.low !== null ? [{ ...one, name, value: reports[name] }] : [];
  });
  const lower = rows.length > 0 && rows[0].value.lower.includes(measure),
    share = rows.length > 0 && rows[0].value.shares.includes(measure);
  const figure = (amount) =>
    amount === null || amount === undefined ? "–" : share ? `${number(100 * amount, 1)} %` : number(amount, 3);
  const ends = [0, ...rows.flatMap((one) => [one.low, one.high])],
    low = Math.min(...ends),
    high = Math.max(...ends),
    room = (high - low || 1) * 0.06;
  // On a narrow screen, the name of a run is above its line, so that letters keep their size.
  const [width, left, right, line] = narrow ? [330, 24, 24, 40] : [560, 150, 20, 26],
    height = rows.length * line + 44;
  const px = (value) => left + ((value - low + room) / (high - low + 2 * room)) * (width - left - right);
  const table = () => [
    ["run", "measure", "base", "adapter", "difference", "from", "to"],
    ...rows.map((one) => [text(one.name), measure, one.base, one.adapter, one.difference, one.low, one.high]),
  ];
  const words = measure.replace(/_/g, " ");
  return html`<section class="card">
    <header>
      <h2>Evaluation with intervals</h2>
      <${Segments}
        label="Measure"
        value=${measure}
        onChange=${want}
        options=${measures.slice(0, 6).map((one) => [one, one.replace(/_/g, " ")])}
      /><${Take} title="Evaluation with intervals" drawing=${drawing} file="evaluation" rows=${table} />
    </header>
    <p class="hint">
      Adapter minus base, with the 95 %
      interval.${" "}${lower ? "Left of the line is better." : "Right of the line is better."} Each report uses the
      evaluation rows of its run: do not compare runs with different rows.
    </p>
    <div>
      <svg
        ref=${drawing}
        class="fit"
        viewBox=${`0 0 ${width} ${height}`}
        width="100%"
        role="img"
        aria-label=${`${words}: ${rows.map((one) => `${text(one.name)} ${figure(one.difference)}, from ${figure(one.low)} to ${figure(one.high)}`).join("; ")}`}
        font-size="11"
        fill="var(--quiet)"
      >
        ${[...new Set([low, 0, high])].map((tick) => html`<g key=${tick}><line x1=${px(tick)} x2=${px(tick)} y1="6" y2=${height - 34} stroke=${tick === 0 ? "var(--quiet)" : "var(--line)"} /><text x=${px(tick)} y=${height - 20} text-anchor="middle">${figure(tick)}</text></g>`)}
        <text x=${(left + width - right) / 2} y=${height - 2} text-anchor="middle">${`difference of ${words}`}</text>
        ${rows.map((one, at) => {
          const y = (narrow ? 30 : 18) + at * line,
            paint = colour(place(one.name));
          return html`<g key=${one.name}
            ><text x="0" y=${narrow ? y - 13 : y + 4} fill="var(--text)">${text(one.name).slice(0, 24)}</text
            ><line x1=${px(one.low)} x2=${px(one.high)} y1=${y} y2=${y} stroke=${paint} stroke-width="2" /><circle
              cx=${px(one.difference)}
              cy=${y}
              r="5"
              fill=${paint}
          /></g>`;
        })}
      </svg>
    </div>
    <${Table}
      caption=${words}
      rows=${rows}
      keyOf=${(one) => one.name}
      columns=${[
        [
          "run",
          "Run",
          (one) =>
            html`<${Swatch} place=${place(one.name)} /><a href=${link("report", one.name)}>${text(one.name)}</a>`,
          false,
          "lead",
        ],
        ...[
          ["base", "Base"],
          ["adapter", "Adapter"],
          ["difference", "Difference"],
          ["low", "95 % from"],
          ["high", "to"],
        ].map(([key, heading]) => [key, heading, (one) => figure(one[key]), false, "num"]),
      ]}
    />
  </section>`;
}

export function Sweeps() {
  const { runs } = useStore();
  const groups = new Map();
  for (const run of runs.values()) {
    const parent = run.name.split("/").slice(0, -1).join("/");
    if (parent) groups.set(parent, [...(groups.get(parent) || []), run]);
  }
  const found = [...groups].filter(([, members]) => members.length > 1);
  return html`<${Head}
      title="Sweeps"
      about="Folders with several runs, such as those of veneer sweep and veneer compare"
    />
    ${
      found.length
        ? html`<div class="stack">
            ${found.map(([parent, members]) => html`<${SweepCard} key=${parent} parent=${parent} members=${members} />`)}
          </div>`
        : html`<div class="card empty">
            <p>There is no sweep in this folder.</p>
            <p>
              Start one with <code>veneer sweep --grid train.learning_rate=1e-4,1e-3 --output FOLDER/rates</code>; it
              appears here by itself.
            </p>
          </div>`
    }`;
}

// The metric by which the evaluations of all these runs are compared. Null if that is the loss, or they have no common one.
function judgedBy(members) {
  const names = new Set(
    members.filter((run) => run.best_value !== null || run.best_by !== "loss").map((run) => run.best_by),
  );
  return names.size === 1 && members.every((run) => names.has(run.best_by)) ? [...names][0] : null;
}

function SweepCard({ parent, members }) {
  const names = members.slice(0, 60).map((run) => run.name),
    { settings, waits, error } = useSettings(names),
    keys = waits ? [] : differing(settings, names);
  const by = judgedBy(members),
    judged = (run) => (by ? run.best_value : (run.best_loss ?? run.loss)),
    higher = by ? members[0].best_higher : false;
  const better = (one, other) => one !== null && (other === null || (higher ? one > other : one < other));
  const ranked = [...members].sort((one, other) =>
      better(judged(one), judged(other)) ? -1 : better(judged(other), judged(one)) ? 1 : 0,
    ),
    [best, second] = ranked;
  // No run is the best if the first two are equal, or nothing was measured.
  const leads = judged(best) !== null && better(judged(best), judged(second));
  const columns = [
    [
      "name",
      "Run",
      (run) =>
        html`<a href=${link("run", run.name)}>${last(run.name)}</a
          >${leads && run === best ? html` <span class="tag good">best</span>` : ""}`,
      (run) => run.name,
      "lead",
    ],
    ...keys.map((key) => [
      key,
      last(key.replace(/\./g, "/")),
      (run) => shown((settings[run.name] || {})[key]),
      (run) => (settings[run.name] || {})[key] ?? null,
      "num",
    ]),
    ["state", "State", (run) => html`<${Pill} state=${run.state} />`, (run) => run.state],
    ...(by ? [["judged", `Best ${by}`, (run) => short(run.best_value), judged, "num"]] : []),
    ["best_loss", "Best evaluation", (run) => loss(run.best_loss), by ? (run) => run.best_loss : judged, "num"],
    ["loss", "Last loss", (run) => loss(run.loss), (run) => run.loss, "num"],
    [
      "seconds",
      "Time",
      (run) => duration(run.step ? run.seconds : null),
      (run) => (run.step ? run.seconds : null),
      "num",
    ],
  ];
  return html`<section class="card flush">
    <header>
      <h2>${parent}</h2>
      <span class="quiet"
        >${counted(members.length, "run")};
        differing:${" "}${waits ? "…" : keys.join(", ") || (error ? error.message : "nothing")}</span
      ><a
        class="btn small"
        href=${link("compare", "", { runs: JSON.stringify(ranked.slice(0, MOST_COMPARED).map((run) => run.name)) })}
        >${members.length > MOST_COMPARED ? `Compare the best ${MOST_COMPARED}` : "Compare"}</a
      >
    </header>
    <${SortTable}
      caption=${`Runs of ${parent}`}
      columns=${columns}
      rows=${members}
      keyOf=${(run) => run.name}
      first=${by ? { key: "judged", down: higher } : { key: "best_loss", down: false }}
    />
  </section>`;
}
