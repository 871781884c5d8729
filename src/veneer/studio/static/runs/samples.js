// Answers that were sampled during a run: to the same prompts at two steps, and those with their rewards.
import { html, useState } from "/static/library/preact.js";
import { counted, number, short } from "/static/common/figures.js";
import { AnswerText, Button, Options } from "/static/common/parts.js";
import { Table } from "/static/common/table.js";

// A choice of a step. Its value is the step's place in the list.
const StepSelect = ({ steps, place, label, onChange }) =>
  html`<select value=${place} aria-label=${label} onChange=${(event) => onChange(Number(event.target.value))}>
    <${Options} options=${steps.map(({ step }, index) => [index, `step ${number(step)}`])} value=${place} />
  </select>`;

// The answers of the model to the same prompts, at two steps side by side.
export function Samples({ samples }) {
  const [chosen, setChosen] = useState({});
  const newest = samples.length - 1;
  const right = Math.min(chosen.right ?? newest, newest);
  const left = Math.min(chosen.left ?? 0, newest);
  const select = (side, place, label) =>
    html`<${StepSelect}
      steps=${samples}
      place=${place}
      label=${label}
      onChange=${(next) => setChosen({ ...chosen, [side]: next })}
    />`;
  const answers = (place) => ({
    key: `${place}`,
    title: `step ${number(samples[place].step)}${samples[place].cut_short ? ", cut short for time" : ""}`,
    kind: "said",
    cell: (row) => html`<${AnswerText} text=${samples[place].answers[row]} />`,
  });
  const prompts = { key: "prompt", title: "Prompt", kind: "said", cell: (row) => samples[right].prompts[row] };
  const times = samples.length > 1 ? `, ${number(samples.length)} times` : "";
  return html`<section class="card flush samples">
    <header>
      <h2>Samples during training</h2>
      <span class="quiet">greedy answers to the same prompts${times}</span>${
        samples.length > 1 &&
        html`<span class="tools"
          >${select("left", left, "earlier step")} and ${select("right", right, "later step")}</span
        >`
      }
    </header>
    <${Table}
      caption="Answers during training"
      columns=${[prompts, ...[...new Set([left, right])].map(answers)]}
      rows=${samples[right].prompts.map((_, row) => row)}
      keyOf=${(row) => row}
    />
  </section>`;
}

// The answers with the highest and the lowest reward among those sampled in a step.
export function JudgedAnswers({ judged }) {
  const [chosen, setChosen] = useState(null);
  const newest = judged.length - 1;
  const place = chosen === null ? newest : Math.min(chosen, newest);
  const sampled = judged[place];
  const { failed } = sampled;
  const sampledCount = `${counted(sampled.answers, "answer")} (${counted(sampled.tokens, "token")})`;
  const columns = [
    { key: "reward", title: "Reward", kind: "num", cell: (row) => short(sampled.rewards[row]) },
    { key: "prompt", title: "Prompt", kind: "said", cell: (row) => sampled.prompts[row] },
    {
      key: "answer",
      title: "Answer",
      kind: "said",
      cell: (row) => html`<${AnswerText} text=${sampled.shown[row]} />`,
    },
  ];
  return html`<section class="card flush samples">
    <header>
      <h2>Sampled answers</h2>
      <span class="quiet">the highest and the lowest rewards of ${sampledCount}</span>
      <span class="tools"
        ><${Button} text="Earlier" off=${place === 0} onClick=${() => setChosen(place - 1)} /><${StepSelect}
          steps=${judged}
          place=${place}
          label="step of the sampled answers"
          onChange=${setChosen} /><${Button}
          text="Later"
          off=${place === newest}
          onClick=${() => setChosen(place + 1)} /><${Button}
          text="Newest"
          off=${chosen === null}
          onClick=${() => setChosen(null)}
      /></span>
    </header>
    ${
      failed.length > 0 &&
      html`<div class="inset warn">
        ${counted(failed.length, "answer")} ${failed.length === 1 ? "was" : "were"} left out because a reward
        failed:${" "} ${failed[0]}
      </div>`
    }
    <${Table}
      caption=${`Sampled answers of step ${sampled.step}`}
      columns=${columns}
      rows=${sampled.shown.map((_, row) => row)}
      keyOf=${(row) => row}
    />
  </section>`;
}
