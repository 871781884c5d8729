// The field of one setting of a new job.
import { html } from "/static/library/preact.js";
import { short, shown } from "/static/common/figures.js";
import { Names } from "/static/common/parts.js";

// The plan's objection to a setting: the line of its refusal that names the setting, and not a longer key. In a list of
// problems, lines begin with a dash.
function objectionTo(key, plan) {
  const names = (line) => line.split(/[^\w.]+/).some((word) => word === key || word.startsWith(`${key}.`));
  const line = plan.problem ? plan.problem.message.split("\n").find(names) : undefined;
  return line && line.replace(/^ *- /, "");
}

// The value that veneer chooses: that of the plan, or else the default.
function ownValue(key, plan, options) {
  const known = ((options || {}).settings || []).find((setting) => setting.key === key);
  const fallback = known && known.default !== null ? known.default : undefined;
  const value = plan.found ? plan.found.settings[key] : fallback;
  if (value === undefined) return "auto";
  return typeof value === "number" ? short(value) : shown(value);
}

// The names to choose from; undefined for a field of text. An adapter is continued on its own base alone.
function namesFor({ key, choices }, { models = [], adapters = {} }, model) {
  if (choices === "bases") return models;
  if (choices !== "adapters") return choices;
  const isFitting = ([, base]) => key !== "train.from_adapter" || base === model;
  return Object.entries(adapters)
    .filter(isFitting)
    .map(([adapter]) => adapter);
}

// The field of a setting, given as those of `OBJECTIVES`. It shows the value that veneer chooses until the user types
// one.
export function SettingField({ field, value, onChange, plan, options, model }) {
  const { key, name, hint, choices } = field;
  const names = namesFor(field, options || {}, model);
  const own = ownValue(key, plan, options);
  const objection = objectionTo(key, plan);
  const isWrong = Boolean(objection);
  return html`<label class="field"
    ><span class=${name === key ? "mono" : ""}>${name}</span>${
      names
        ? html`<select name=${key} value=${value} aria-invalid=${isWrong} onChange=${onChange}>
            <option value="">${Array.isArray(choices) ? own : "none"}</option>
            <${Names} names=${names} value=${value} />
          </select>`
        : html`<input
            name=${key}
            inputmode="decimal"
            placeholder=${own}
            value=${value}
            aria-invalid=${isWrong}
            onInput=${onChange}
          />`
    }<small class=${isWrong ? "bad" : ""}>${objection || hint}</small></label
  >`;
}
