// The objectives of training with their own settings, and the rewards of reinforcement.
import { html } from "/static/preact.js";
import { short, shown } from "/static/figures.js";

const BETA = "How strongly the model is kept close to its initial state.";
// Name, description, hint on the rows, and fields: key, name, hint, and the choices (a list, or "bases" or "adapters").
export const OBJECTIVES = [
  ["sft", "supervised: imitate the answers", "Rows with one answer each.", []],
  [
    "dpo",
    "DPO: prefer one answer to another",
    "Pairs of a chosen and a rejected answer.",
    [["dpo.beta", "Beta", BETA]],
  ],
  [
    "orpo",
    "ORPO: imitate and prefer at once",
    "Pairs; no reference is needed.",
    [["orpo.beta", "Beta", "Weight of the odds ratio next to the cross-entropy."]],
  ],
  [
    "simpo",
    "SimPO: prefer by mean log-probability",
    "Pairs; no reference is needed.",
    [
      ["simpo.beta", "Beta", "Factor of the mean log-probabilities."],
      ["simpo.gamma", "Gamma", "The margin by which the chosen answer should win."],
    ],
  ],
  [
    "cpo",
    "CPO: contrastive preferences",
    "Pairs; no reference is needed.",
    [["cpo.beta", "Beta", "Factor of the difference of log-probabilities."]],
  ],
  [
    "kto",
    "KTO: answers that are good or bad",
    "Rows of one answer with label true or false.",
    [["kto.beta", "Beta", BETA]],
  ],
  [
    "grpo",
    "GRPO: reinforcement by rewards",
    "Prompts without answers; answers are sampled, and judged by the rewards below.",
    [
      ["grpo.num_generations", "Answers per prompt", "The answers to each prompt are compared with each other."],
      ["grpo.max_completion_length", "Longest answer", "In tokens; longer answers are cut, and counted."],
      ["grpo.temperature", "Temperature", "The temperature of sampling."],
      ["grpo.beta", "Beta", `${BETA} 0: not at all.`],
      ["grpo.loss_type", "Loss", "How losses are averaged.", ["dapo", "grpo", "dr_grpo"]],
    ],
  ],
  [
    "distillation",
    "distillation: follow a teacher",
    "Rows with one answer each; a teacher gives the probabilities of its tokens.",
    [
      [
        "distillation.teacher",
        "Teacher",
        "A model with the same vocabulary. Empty: the base model, with the teacher's adapter.",
        "bases",
      ],
      ["distillation.teacher_adapter", "Teacher's adapter", "An adapter on the teacher.", "adapters"],
      [
        "distillation.divergence",
        "Divergence",
        "The direction between teacher and student.",
        ["forward", "reverse", "generalised"],
      ],
      ["distillation.temperature", "Temperature", "Divides the logits of teacher and student."],
      [
        "distillation.top_k",
        "Kept tokens",
        "The teacher's most likely tokens, computed once before training. Empty: all tokens, computed in each step.",
      ],
    ],
  ],
  [
    "reward",
    "reward model: score answers",
    "Pairs; the result scores answers, and cannot chat.",
    [["reward.centring", "Centring", "Holds scores around 0; 0.01 is usual."]],
  ],
  ["pretraining", "pretraining: learn from plain text", "Plain text, of which every token is trained.", []],
];
export const objectiveOf = (name) => OBJECTIVES.find((one) => one[0] === name) || OBJECTIVES[0];

// The plan's objection to a setting: the line of its refusal that names the setting.
const faultOf = (key, plan) =>
  plan.problem ? plan.problem.message.split("\n").find((line) => line.includes(key)) : undefined;

// The field of one setting. It shows the value that veneer chooses until the user types one.
export function Setting({ field: [key, name, hint, choice], value, onChange, plan, options, model }) {
  const known = ((options || {}).settings || []).find((one) => one.key === key),
    chosen = plan.found ? plan.found.settings[key] : known && known.default !== null ? known.default : undefined,
    own = chosen === undefined ? "auto" : typeof chosen === "number" ? short(chosen) : shown(chosen);
  const adapters = Object.entries((options || {}).adapters || {})
    .filter(([, base]) => key !== "train.from_adapter" || base === model)
    .map(([adapter]) => adapter);
  const listed = choice === "bases" ? (options || {}).models || [] : choice === "adapters" ? adapters : choice,
    wrong = Boolean(faultOf(key, plan));
  return html`<label class="field"
    ><span class=${name === key ? "mono" : ""}>${name}</span>${
      listed
        ? html`<select name=${key} value=${value} aria-invalid=${wrong} onChange=${onChange}>
            <option value="">${Array.isArray(choice) ? own : "none"}</option>
            ${listed.map((one) => html`<option key=${one} value=${one} selected=${one === value}>${one}</option>`)}
          </select>`
        : html`<input
            name=${key}
            inputmode="decimal"
            placeholder=${own}
            value=${value}
            aria-invalid=${wrong}
            onInput=${onChange}
          />`
    }<small class=${wrong ? "bad" : ""}>${wrong ? faultOf(key, plan) : hint}</small></label
  >`;
}

const KINDS = [
  ["metric", "a metric"],
  ["adapter", "a reward model"],
  ["source", "Python"],
  ["command", "a program"],
];
const EXAMPLE = 'def grade(sample, item):\n    return float(item["answer"] in sample["output_text"])\n';
// Fields of a reward that are not in the form. A job like another one takes them over unchanged.
const MORE = ["name", "time_limit", "on_error"];
const moreOf = (reward) =>
  Object.fromEntries(Object.entries(reward).filter(([key, value]) => MORE.includes(key) && value !== null));
export const FIRST = { kind: "metric", value: "exact", column: "", weight: "1" };

// The rewards of a job, for the form. The studio returns Python code only as part of an OpenAI grader; in other rewards it is
// missing, and the user has to fill it in.
export function rewardsOf(job, rewards) {
  const { grader } = (job.method || {}).reinforcement || {},
    parts = !grader ? {} : grader.type === "multi" ? grader.graders : { [grader.name || "grade"]: grader };
  const valueOf = (kind, one) => (kind === "source" ? (parts[one.name] || {}).source || "" : one[kind]);
  return rewards.map((one) => {
    const kind = ["metric", "adapter", "command"].find((key) => one[key]) || "source";
    return {
      kind,
      value: valueOf(kind, one),
      column: one.column || "",
      weight: String(one.weight ?? 1),
      more: moreOf(one),
    };
  });
}

export const isEmpty = (reward) => !reward.value.trim();
// The rewards in the form of a job. An empty weight means the default: Number("") would be 0.
const weightOf = ({ weight }) =>
  String(weight).trim() === "" || !Number.isFinite(Number(weight)) ? 1 : Number(weight);
export const named = (rewards) =>
  rewards.map((one) => ({
    [one.kind]: one.value,
    ...(one.kind === "metric" && one.column ? { column: one.column } : {}),
    ...(weightOf(one) === 1 ? {} : { weight: weightOf(one) }),
    ...one.more,
  }));

export function Rewards({ rewards, onChange, options }) {
  const { judges = [], metrics = [], code = false } = options || {};
  const change = (place, more) => onChange(rewards.map((one, at) => (at === place ? { ...one, ...more } : one)));
  const kind = (place) => (event) =>
    change(place, {
      kind: event.target.value,
      value: { metric: "exact", adapter: judges[0] || "", source: EXAMPLE, command: "" }[event.target.value],
      more: {},
    });
  const list = (place, one, names, name) =>
    html`<select
      value=${one.value}
      aria-label=${name}
      onChange=${(event) => change(place, { value: event.target.value })}
    >
      ${names.length ? null : html`<option value="">none yet</option>`}${names.map((text) => html`<option key=${text} value=${text} selected=${text === one.value}>${text}</option>`)}
    </select>`;
  return html`<section class="card">
    <header>
      <h2>Rewards</h2>
      <button type="button" class="btn small" onClick=${() => onChange([...rewards, FIRST])}>Add a reward</button>
    </header>
    <p class="hint">
      The reward of an answer is the sum of these, each times its weight. A metric compares the answer with a column of
      its row. A reward model is a finished run with the objective reward on this
      base.${code ? "" : " Python and programs would have all your rights on this machine: they are only possible if the studio was started with --job-code run."}
    </p>
    <br />
    <div class="rows">
      ${rewards.map(
        (one, place) =>
          html`<article key=${place}>
            <div class="tools">
              <select value=${one.kind} aria-label=${`reward ${place + 1}`} onChange=${kind(place)}>
                ${KINDS.map(([key, text]) => html`<option key=${key} value=${key} selected=${key === one.kind} disabled=${!code && ["source", "command"].includes(key)}>${text}</option>`)}
              </select>
              ${one.kind === "metric" ? html`${list(place, one, metrics, "metric")}<label>column <input size="10" placeholder="answer" value=${one.column} onInput=${(event) => change(place, { column: event.target.value })} /></label>` : one.kind === "adapter" ? list(place, one, judges, "reward model") : one.kind === "command" ? html`<input class="mono" size="28" aria-label="program and arguments" placeholder="judge --strict" value=${one.value} onInput=${(event) => change(place, { value: event.target.value })} />` : null}
              <label
                >weight${" "}<input
                  type="number"
                  step="any"
                  placeholder="1"
                  value=${one.weight}
                  onInput=${(event) => change(place, { weight: event.target.value })} /></label
              ><button
                type="button"
                class="btn small danger"
                aria-label=${`Remove reward ${place + 1}`}
                onClick=${() => onChange(rewards.filter((_, at) => at !== place))}
              >
                Remove
              </button>
            </div>
            ${one.kind === "source" && html`<textarea class="mono" rows="6" spellcheck="false" aria-label="Python with grade(sample, item)" value=${one.value} onInput=${(event) => change(place, { value: event.target.value })}></textarea>${isEmpty(one) && html`<p class="bad">The Python code of ${one.more && one.more.name ? `the reward ${one.more.name}` : "this reward"} is missing: write it, or remove the reward.</p>`}`}
          </article>`,
      )}
    </div>
    ${rewards.length ? null : html`<p class="bad">A run needs at least one reward.</p>`}
  </section>`;
}
