// The answers to a question of the page Chat, side by side, and the choice of the better one.
import { html, useState } from "/static/library/preact.js";
import { baseOf, isDone, modelsThatDiffer } from "/static/chat/conversation.js";
import { counted, number } from "/static/common/figures.js";
import { useAction, useKept } from "/static/common/hooks.js";
import { Button } from "/static/common/parts.js";
import { create } from "/static/common/requests.js";

// The answer that the user prefers, and the action that keeps it as rows to train on: one for each answer that differs
// from it.
export function usePreferences(kept, conversation) {
  const { asked, answers } = conversation;
  const [marked, setMarked] = useKept(`chat marked ${kept}`, null);
  const [count, setCount] = useState(0);
  // The response may arrive after the next question was asked: a mark belongs to the question that it was made for.
  const [prefer, isKeeping, error, setError] = useAction(async (model) => {
    let response = null;
    for (const other of modelsThatDiffer(model, conversation))
      response = await create("/studio/preferences", {
        prompt: asked.sent,
        chosen: answers[model].text,
        rejected: answers[other].text,
      });
    setMarked({ asked, model });
    setCount(response.kept);
  });
  const best = marked && marked.asked === asked ? marked.model : null;
  return { best, prefer, isKeeping, count, error, dropError: () => setError(null) };
}

// The question and the answers of all models.
export function Answers({ conversation, preferences, options }) {
  const { asked, answers, busy } = conversation;
  const answer = (model) =>
    html`<${Answer}
      key=${model}
      model=${model}
      kind=${baseOf(model, options) ? "adapter" : options.models.includes(model) ? "base" : "gone"}
      answer=${answers[model] || { text: "" }}
      busy=${busy}
      isBest=${preferences.best === model}
      tools=${html`<${Choice} model=${model} conversation=${conversation} preferences=${preferences} />`}
    />`;
  return html`<p class="turn">${asked.question}</p>
    <div class="chat">${asked.models.map(answer)}</div>`;
}

// The button that prefers an answer. An answer can be the better one if another model's answer differs from it. An
// answer that was cut cannot: a model trained on it would learn to end there.
function Choice({ model, conversation, preferences }) {
  const { asked, answers, busy } = conversation;
  const { best, prefer, isKeeping } = preferences;
  const answer = answers[model];
  if (!isDone(answer)) return null;
  if (!modelsThatDiffer(model, conversation).length) {
    const hasOthers = asked.models.some((other) => other !== model && isDone(answers[other]));
    return !busy && hasOthers && html`<span class="hint">No other answer differs from this one.</span>`;
  }
  if (answer.reason === null || answer.reason === "length") return null;
  return html`<${Button}
    text=${best === model ? "Kept as the better one" : "This one is better"}
    off=${busy || isKeeping || best !== null}
    aria-pressed=${best === model}
    onClick=${() => prefer(model)}
  />`;
}

const ENDS = {
  length: "The answer was cut here, so it cannot be trained on: allow longer answers.",
  none: "The answer broke off here, so it cannot be trained on.",
};

// How long an answer took.
function timing({ tokens, seconds, first }) {
  const speed = seconds ? `, ${number(tokens / seconds, 1)} tokens/s` : "";
  const start = first ? `, the first after ${number(first)} ms` : "";
  return `${counted(tokens, "token")} in ${number(seconds, 2)} s${start}${speed}`;
}

// The answer of one model. "…" alone means that the answer has not begun.
function Answer({ model, kind, answer, busy, isBest, tools }) {
  const hasEnded = answer.seconds !== undefined;
  const empty = hasEnded ? "(an empty answer)" : busy ? "…" : "";
  const text = answer.text.trim() ? answer.text : html`<span class="quiet">${empty}</span>`;
  const status = hasEnded ? timing(answer) : busy || answer.error ? "" : "Stopped.";
  return html`<section class=${`card answer ${isBest ? "best" : ""}`}>
    <header>
      <h2>${model}</h2>
      <span class="tag">${kind}</span>
    </header>
    <div class="text" aria-live="polite">
      ${answer.error ? html`<span class="bad" role="alert">${answer.error.message}</span>` : text}
    </div>
    <div class="tools">
      <span class="hint">${status}</span
      >${hasEnded && html`<span class="warn">${ENDS[answer.reason ?? "none"]}</span>`}${tools}
    </div>
  </section>`;
}
