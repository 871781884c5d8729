// The rewards of a job of reinforcement: their values in the form and in a request, and their fields.
import { html, useRef } from "/static/library/preact.js";
import { Names } from "/static/common/parts.js";

const KINDS = [
  ["metric", "a metric"],
  ["adapter", "a reward model"],
  ["source", "Python"],
  ["command", "a program"],
];
const CODE = ["source", "command"];
const EXAMPLE = 'def grade(sample, item):\n    return float(item["answer"] in sample["output_text"])\n';
// Fields of a reward that are not in the form. A job like another one takes them over unchanged.
const OTHERS = ["name", "time_limit", "on_error"];

// The reward that a form begins with.
export const FIRST = { kind: "metric", value: "exact", column: "", weight: "1" };

// Whether a reward still needs a value.
export const isEmpty = (reward) => !reward.value.trim();

// The rewards of a job, for the form. The studio returns Python code only as part of an OpenAI grader; in other rewards
// it is missing, and the user has to fill it in.
export function rewardsOf(job, rewards) {
  const { grader } = (job.method || {}).reinforcement || {};
  const graders = !grader ? {} : grader.type === "multi" ? grader.graders : { [grader.name || "grade"]: grader };
  return rewards.map((reward) => {
    const kind = ["metric", "adapter", "command"].find((key) => reward[key]) || "source";
    const others = Object.entries(reward).filter(([key, value]) => OTHERS.includes(key) && value !== null);
    return {
      kind,
      value: kind === "source" ? (graders[reward.name] || {}).source || "" : reward[kind],
      column: reward.column || "",
      weight: String(reward.weight ?? 1),
      others: Object.fromEntries(others),
    };
  });
}

// An empty weight means the default: Number("") would be 0.
const weightOf = ({ weight }) =>
  String(weight).trim() === "" || !Number.isFinite(Number(weight)) ? 1 : Number(weight);

// The rewards of the form, as a request has them.
export const requestedRewards = (rewards) =>
  rewards.map((reward) => ({
    [reward.kind]: reward.value,
    ...(reward.kind === "metric" && reward.column ? { column: reward.column } : {}),
    ...(weightOf(reward) === 1 ? {} : { weight: weightOf(reward) }),
    ...reward.others,
  }));

// The card with the rewards of a job. `options` are the choices for forms.
export function Rewards({ rewards, onChange, options }) {
  const { code = false } = options || {};
  const host = useRef(null);
  const change = (place, values) =>
    onChange(rewards.map((reward, index) => (index === place ? { ...reward, ...values } : reward)));
  // The last reward takes its button with it. The keyboard focus moves to the button before that one in the card.
  const remove = (place) => {
    if (place === rewards.length - 1) host.current.querySelectorAll("button")[place].focus({ preventScroll: true });
    onChange(rewards.filter((_, index) => index !== place));
  };
  const field = (reward, place) =>
    html`<${Reward}
      key=${place}
      number=${place + 1}
      reward=${reward}
      onChange=${(values) => change(place, values)}
      onRemove=${() => remove(place)}
      options=${options || {}}
    />`;
  const refusal =
    " Python and programs would have all your rights on this machine: " +
    "they are only possible if the studio was started with --job-code run.";
  return html`<section class="card" ref=${host}>
    <header>
      <h2>Rewards</h2>
      <button type="button" class="btn small" onClick=${() => onChange([...rewards, FIRST])}>Add a reward</button>
    </header>
    <p class="hint">
      The reward of an answer is the sum of these, each times its weight. A metric compares the answer with a column of
      its row. A reward model is a finished run with the objective reward on this base.${code ? "" : refusal}
    </p>
    <br />
    <div class="rows">${rewards.map(field)}</div>
    ${!rewards.length && html`<p class="bad">A run needs at least one reward.</p>`}
  </section>`;
}

// The fields of one reward. `onChange` is called with the values that change.
function Reward({ number, reward, onChange, onRemove, options }) {
  const { judges = [], code = false } = options;
  const changeKind = (event) => {
    const kind = event.target.value;
    const values = { metric: "exact", adapter: judges[0] || "", source: EXAMPLE, command: "" };
    onChange({ kind, value: values[kind], others: {} });
  };
  const option = ([kind, text]) =>
    html`<option key=${kind} value=${kind} selected=${kind === reward.kind} disabled=${!code && CODE.includes(kind)}>
      ${text}
    </option>`;
  return html`<article>
    <div class="tools">
      <select value=${reward.kind} aria-label=${`reward ${number}`} onChange=${changeKind}>
        ${KINDS.map(option)}
      </select>
      <${RewardValue} reward=${reward} onChange=${onChange} options=${options} />
      <label
        >weight${" "}<input
          type="number"
          step="any"
          placeholder="1"
          value=${reward.weight}
          onInput=${(event) => onChange({ weight: event.target.value })} /></label
      ><button type="button" class="btn small danger" aria-label=${`Remove reward ${number}`} onClick=${onRemove}>
        Remove
      </button>
    </div>
    ${reward.kind === "source" && html`<${PythonField} reward=${reward} onChange=${onChange} />`}
  </article>`;
}

// The value of a reward that fits on one line.
function RewardValue({ reward, onChange, options }) {
  const { judges = [], metrics = [] } = options;
  const setValue = (event) => onChange({ value: event.target.value });
  const select = (names, label) =>
    html`<select value=${reward.value} aria-label=${label} onChange=${setValue}>
      ${!names.length && html`<option value="">none yet</option>`}
      <${Names} names=${names} value=${reward.value} />
    </select>`;
  switch (reward.kind) {
    case "metric":
      return html`${select(metrics, "metric")}<label
          >column${" "}<input
            size="10"
            placeholder="answer"
            value=${reward.column}
            onInput=${(event) => onChange({ column: event.target.value })}
        /></label>`;
    case "adapter":
      return select(judges, "reward model");
    case "command":
      return html`<input
        class="mono"
        size="28"
        aria-label="program and arguments"
        placeholder="judge --strict"
        value=${reward.value}
        onInput=${setValue}
      />`;
    default:
      return null;
  }
}

function PythonField({ reward, onChange }) {
  const { name } = reward.others || {};
  return html`<textarea
      class="mono"
      rows="6"
      spellcheck="false"
      aria-label="Python with grade(sample, item)"
      value=${reward.value}
      onInput=${(event) => onChange({ value: event.target.value })}
    ></textarea
    >${
      isEmpty(reward) &&
      html`<p class="bad">
        The Python code of ${name ? `the reward ${name}` : "this reward"} is missing: write it, or remove the reward.
      </p>`
    }`;
}
