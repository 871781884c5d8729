// What a step minimises, with the settings that belong to it alone, and the rewards of reinforcement.
import { html } from "/static/preact.js";
import { short, shown } from "/static/figures.js";

const BETA = "How strongly the model is held to where it began.";
// Name, words, rows, and fields: key, name, hint, and what may be chosen (a list, or "bases" or "adapters").
export const OBJECTIVES = [
  ["sft", "supervised: imitate the answers", "Rows with one answer each.", []],
  ["dpo", "DPO: prefer one answer to another", "Pairs of a chosen and a rejected answer.", [["dpo.beta", "Beta", BETA]]],
  ["orpo", "ORPO: imitate and prefer at once", "Pairs; no reference is needed.", [["orpo.beta", "Beta", "Weight of the odds ratio beside the cross-entropy."]]],
  ["simpo", "SimPO: prefer by mean log-probability", "Pairs; no reference is needed.", [["simpo.beta", "Beta", "Factor of the mean log-probabilities."], ["simpo.gamma", "Gamma", "Margin that the chosen answer is to have."]]],
  ["cpo", "CPO: contrastive preferences", "Pairs; no reference is needed.", [["cpo.beta", "Beta", "Factor of the difference of log-probabilities."]]],
  ["kto", "KTO: answers that are good or bad", "Rows of one answer with label true or false.", [["kto.beta", "Beta", BETA]]],
  ["grpo", "GRPO: reinforcement by rewards", "Rows that ask; answers are sampled, and judged by the rewards below.", [["grpo.num_generations", "Answers a prompt", "Answers to each prompt, which are compared with each other."], ["grpo.max_completion_length", "Longest answer", "In tokens; longer ones are cut, and counted."], ["grpo.temperature", "Temperature", "Of sampling."], ["grpo.beta", "Beta", `${BETA} 0: not at all.`], ["grpo.loss_type", "Loss", "What losses are divided by.", ["dapo", "grpo", "dr_grpo"]]]],
  ["distillation", "distillation: follow a teacher", "Rows with one answer each, of whose tokens a teacher says how likely they are.", [["distillation.teacher", "Teacher", "A model with this vocabulary. Empty: the base model, with the adapter beside.", "bases"], ["distillation.teacher_adapter", "Teacher's adapter", "An adapter on the teacher.", "adapters"], ["distillation.divergence", "Divergence", "Of which from which: teacher and student.", ["forward", "reverse", "generalised"]], ["distillation.temperature", "Temperature", "Both are divided by it."], ["distillation.top_k", "Kept tokens", "The teacher's likeliest ones, asked once before. Empty: all, beside the student."]]],
  ["reward", "reward model: score answers", "Pairs; the result gives a text a score, and does not chat.", [["reward.centring", "Centring", "Holds scores around 0; 0.01 is usual."]]],
  ["pretraining", "pretraining: go on reading texts", "Plain texts, of which every token trains.", []],
];
export const objectiveOf = (name) => OBJECTIVES.find((one) => one[0] === name) || OBJECTIVES[0];

// What the plan says against a setting: the line of its refusal that names it.
const faultOf = (key, plan) => plan.problem ? plan.problem.message.split("\n").find((line) => line.includes(key)) : undefined;

// One setting, with what veneer chooses for it as long as nothing is typed.
export function Setting({ field: [key, name, hint, choice], value, onChange, plan, options, model }) {
  const known = ((options || {}).settings || []).find((one) => one.key === key), chosen = plan.found ? plan.found.settings[key] : known && known.default !== null ? known.default : undefined, own = chosen === undefined ? "auto" : typeof chosen === "number" ? short(chosen) : shown(chosen);
  const adapters = Object.entries((options || {}).adapters || {}).filter(([, base]) => key !== "train.from_adapter" || base === model).map(([adapter]) => adapter);
  const listed = choice === "bases" ? (options || {}).models || [] : choice === "adapters" ? adapters : choice, wrong = Boolean(faultOf(key, plan));
  return html`<label class="field"><span class=${name === key ? "mono" : ""}>${name}</span>${listed ? html`<select name=${key} value=${value} aria-invalid=${wrong} onChange=${onChange}><option value="">${Array.isArray(choice) ? own : "none"}</option>${listed.map((one) => html`<option key=${one} value=${one} selected=${one === value}>${one}</option>`)}</select>` : html`<input name=${key} inputmode="decimal" placeholder=${own} value=${value} aria-invalid=${wrong} onInput=${onChange} />`}<small class=${wrong ? "bad" : ""}>${wrong ? faultOf(key, plan) : hint}</small></label>`;
}

const KINDS = [["metric", "a metric"], ["adapter", "a reward model"], ["source", "Python"], ["command", "a program"]];
const EXAMPLE = "def grade(sample, item):\n    return float(item[\"answer\"] in sample[\"output_text\"])\n";
// What a reward may have beside the fields of the form: a job like another one takes it over as it is.
const MORE = ["name", "time_limit", "on_error"];
const moreOf = (reward) => Object.fromEntries(Object.entries(reward).filter(([key, value]) => MORE.includes(key) && value !== null));
export const FIRST = { kind: "metric", value: "exact", column: "", weight: "1" };

// The rewards of a job as the form has them. Python is told where a grader of OpenAI's has it, and to nobody otherwise: such
// a reward is there without it, to be filled in.
export function rewardsOf(job, rewards) {
  const { grader } = (job.method || {}).reinforcement || {}, parts = !grader ? {} : grader.type === "multi" ? grader.graders : { [grader.name || "grade"]: grader };
  const valueOf = (kind, one) => kind === "source" ? (parts[one.name] || {}).source || "" : one[kind];
  return rewards.map((one) => {
    const kind = ["metric", "adapter", "command"].find((key) => one[key]) || "source";
    return { kind, value: valueOf(kind, one), column: one.column || "", weight: String(one.weight ?? 1), more: moreOf(one) };
  });
}

export const isEmpty = (reward) => !reward.value.trim();
// The rewards as a job names them. What is left empty is the default: Number("") would be 0.
const weightOf = ({ weight }) => String(weight).trim() === "" || !Number.isFinite(Number(weight)) ? 1 : Number(weight);
export const named = (rewards) => rewards.map((one) => ({ [one.kind]: one.value, ...(one.kind === "metric" && one.column ? { column: one.column } : {}), ...(weightOf(one) === 1 ? {} : { weight: weightOf(one) }), ...one.more }));

export function Rewards({ rewards, onChange, options }) {
  const { judges = [], metrics = [], code = false } = options || {};
  const change = (place, more) => onChange(rewards.map((one, at) => at === place ? { ...one, ...more } : one));
  const kind = (place) => (event) => change(place, { kind: event.target.value, value: { metric: "exact", adapter: judges[0] || "", source: EXAMPLE, command: "" }[event.target.value], more: {} });
  const list = (place, one, names, name) => html`<select value=${one.value} aria-label=${name} onChange=${(event) => change(place, { value: event.target.value })}>${names.length ? null : html`<option value="">none yet</option>`}${names.map((text) => html`<option key=${text} value=${text} selected=${text === one.value}>${text}</option>`)}</select>`;
  return html`<section class="card"><header><h2>Rewards</h2><button type="button" class="btn small" onClick=${() => onChange([...rewards, FIRST])}>Add a reward</button></header><p class="hint">An answer's reward is the sum of these, each times its weight. A metric compares the answer with a column of its row; a reward model is a finished run of the objective reward on this base.${code ? "" : " Python and programs would do on this machine what you may: the studio takes them where it was started with --job-code run."}</p><br /><div class="rows">${rewards.map((one, place) => html`<article key=${place}><div class="tools">
    <select value=${one.kind} aria-label=${`reward ${place + 1}`} onChange=${kind(place)}>${KINDS.map(([key, text]) => html`<option key=${key} value=${key} selected=${key === one.kind} disabled=${!code && ["source", "command"].includes(key)}>${text}</option>`)}</select>
    ${one.kind === "metric" ? html`${list(place, one, metrics, "metric")}<label>column <input size="10" placeholder="answer" value=${one.column} onInput=${(event) => change(place, { column: event.target.value })} /></label>` : one.kind === "adapter" ? list(place, one, judges, "reward model") : one.kind === "command" ? html`<input class="mono" size="28" aria-label="program and arguments" placeholder="judge --strict" value=${one.value} onInput=${(event) => change(place, { value: event.target.value })} />` : null}
    <label>weight <input type="number" step="any" placeholder="1" value=${one.weight} onInput=${(event) => change(place, { weight: event.target.value })} /></label><button type="button" class="btn small danger" aria-label=${`Remove reward ${place + 1}`} onClick=${() => onChange(rewards.filter((_, at) => at !== place))}>Remove</button></div>
    ${one.kind === "source" && html`<textarea class="mono" rows="6" spellcheck="false" aria-label="Python with grade(sample, item)" value=${one.value} onInput=${(event) => change(place, { value: event.target.value })}></textarea>${isEmpty(one) && html`<p class="bad">The Python of ${one.more && one.more.name ? `the reward ${one.more.name}` : "this reward"} is not known here: write it, or remove the reward.</p>`}`}</article>`)}</div>${rewards.length ? null : html`<p class="bad">A run needs one reward at least.</p>`}</section>`;
}
