// The lower part of a run's page: its log, notes, run.lock, settings, checkpoints and job.
import { html, useState } from "/static/library/preact.js";
import { clock, counted, link, number, shown, word } from "/static/common/figures.js";
import { JobCard } from "/static/jobs/job_buttons.js";
import { Notes } from "/static/runs/notes.js";
import { Copy } from "/static/common/parts.js";
import { canAnswer } from "/static/runs/run_state.js";
import { Table } from "/static/common/table.js";

// Two columns of cards. `details` is the studio's answer for the run.
export function RunDetails({ details, run, job }) {
  return html`<div class="split">
    <div class="stack">
      <${Log} lines=${details.log} />
      <${Notes} run=${run} />
      <${Lock} lock=${details.lock} path=${run.path} />
    </div>
    <div class="stack">
      <${Settings} settings=${details.settings} />
      <${Checkpoints}
        steps=${details.checkpoints}
        best=${run.best_step}
        model=${canAnswer(run, job) && details.adapter}
      />
      ${job && html`<${JobCard} job=${job} />`}
    </div>
  </div>`;
}

const Log = ({ lines }) =>
  html`<section class="card">
    <header>
      <h2>Log</h2>
      <span class="quiet">${counted(lines.length, "line")}</span>
    </header>
    ${
      lines.length
        ? html`<ul class="log">
            ${[...lines]
              .reverse()
              .map(
                ({ time, level, message }, place) =>
                  html`<li key=${place}>
                    <time>${clock(time)}</time><span class=${level === "warning" ? "warn" : ""}>${message}</span>
                  </li>`,
              )}
          </ul>`
        : html`<p class="quiet">The run has logged nothing but its steps.</p>`
    }
  </section>`;

function Lock({ lock, path }) {
  const header = html`<header>
    <h2>run.lock</h2>
    ${lock && html`<${Copy} text=${JSON.stringify(lock, null, 2)} />`}
  </header>`;
  if (!lock)
    return html`<section class="card">
      ${header}
      <p class="quiet">A run writes it when it has finished.</p>
    </section>`;
  const { versions, hardware, seed, steps, data, result } = lock;
  return html`<section class="card">
    ${header}
    <p class="hint">
      Everything that determines the bytes of the result.${" "}<code>veneer reproduce ${word(path)}</code>${" "}makes
      them again.
    </p>
    <br />
    <pre class="box" tabindex="0">${JSON.stringify({ versions, hardware, seed, steps, data, result }, null, 2)}</pre>
  </section>`;
}

function Settings({ settings }) {
  const [hasDefaults, setDefaults] = useState(false);
  const columns = [
    { key: "key", title: "Setting", kind: "mono", cell: (setting) => setting.key },
    { key: "value", title: "Value", kind: "wrap mono", cell: (setting) => shown(setting.value) },
  ];
  return html`<section class="card flush">
    <header>
      <h2>Settings</h2>
      <label class="quiet"
        ><input type="checkbox" checked=${hasDefaults} onChange=${() => setDefaults(!hasDefaults)} /> show
        defaults</label
      >
    </header>
    <${Table}
      caption="Settings"
      columns=${columns}
      rows=${settings.filter((setting) => hasDefaults || !setting.default)}
      keyOf=${(setting) => setting.key}
      mark=${(setting) => (setting.default ? "default" : "changed")}
    />
  </section>`;
}

// The checkpoints that are kept. If the run's adapter can chat, so can they: `model` is its name.
function Checkpoints({ steps, best, model }) {
  const address = (step) => (model ? link("chat", "", { model: `${model}-step-${step}` }) : undefined);
  const checkpoint = (step) =>
    html`<a key=${step} class="tag" title="chat with this checkpoint" href=${address(step)}
      >step ${number(step)}${step === best ? " · best" : ""}</a
    >`;
  return html`<section class="card">
    <header><h2>Checkpoints</h2></header>
    ${
      steps.length
        ? html`<p class="tools">${steps.map(checkpoint)}</p>`
        : html`<p class="quiet">No checkpoints are kept.</p>`
    }
  </section>`;
}
