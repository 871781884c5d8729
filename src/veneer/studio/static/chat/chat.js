// The page Chat: base and adapters answer side by side. A click keeps the better answer as a preference.
import { html, useEffect, useRef } from "/static/library/preact.js";
import { Answers, usePreferences } from "/static/chat/chat_answers.js";
import { firstModels, isKnown, offeredModels, useConversation } from "/static/chat/conversation.js";
import { link, number } from "/static/common/figures.js";
import { useAction, useKept, useOptions } from "/static/common/hooks.js";
import { Banner, Button, Fault, Field, Head, Loading, Names } from "/static/common/parts.js";
import { create } from "/static/common/requests.js";

// The page. `query` has the name of the model that it begins with.
export function Chat({ query }) {
  const { value, error } = useOptions();
  // The choices stay when they are requested again.
  const arrived = useRef(null);
  if (value) arrived.current = value;
  const options = arrived.current;
  const kept = query.model || "";
  const form = useForm(kept);
  const conversation = useConversation(kept);
  const preferences = usePreferences(kept, conversation);
  const [train, isMaking, trainError] = useAction(async () => {
    const file = await create("/studio/preferences/file", {});
    location.hash = link("new", "", { file: file.id, objective: "dpo" });
  });
  const { models, setModels } = form;
  useEffect(() => {
    if (!options) return;
    const wanted = query.model && isKnown(query.model, options) ? query.model : null;
    if (models && (!wanted || models.includes(wanted) || conversation.answers[models[0]])) return;
    setModels(firstModels(wanted, options));
  }, [options]);
  if (!options || !models) return html`<${NoModels} options=${options} error=${error} />`;
  const submit = (event) => {
    event.preventDefault();
    // No other question is asked until all answers to the last one are complete.
    if (conversation.isAsking() || !form.question.trim()) return;
    preferences.dropError();
    conversation.ask({ ...requestOf(form), models, options });
  };
  const canTrain = options.preferences || preferences.count;
  return html`<${Head}
      title="Chat"
      about=${
        "Base and adapters answer side by side. " +
        "They share one base in memory, held as in the run of the first adapter."
      }
      tools=${html`<${HeadButtons} canTrain=${canTrain} isMaking=${isMaking} train=${train} />`}
    /><${Fault} error=${preferences.error || trainError} />${
      query.model &&
      !isKnown(query.model, options) &&
      html`<${Banner} text=${`The model ${query.model} does not exist, or was deleted; others are chosen below.`} />`
    }
    <form class="card" onSubmit=${submit}>
      <div class="stack">
        <${ModelTools} form=${form} options=${options} />
        <${QuestionFields} form=${form} conversation=${conversation} keptCount=${preferences.count} />
      </div>
    </form>
    <br />
    ${
      conversation.asked &&
      html`<${Answers} conversation=${conversation} preferences=${preferences} options=${options} />`
    }`;
}

// The fields of the page, which are kept when the user leaves it and comes back.
function useForm(kept) {
  const [models, setModels] = useKept(`chat models ${kept}`, null);
  const [question, setQuestion] = useKept(`chat question ${kept}`, "");
  const [system, setSystem] = useKept(`chat system ${kept}`, "");
  const [temperature, setTemperature] = useKept(`chat temperature ${kept}`, "0");
  const [longest, setLongest] = useKept(`chat longest ${kept}`, "128");
  return {
    models,
    setModels,
    question,
    setQuestion,
    system,
    setSystem,
    temperature,
    setTemperature,
    longest,
    setLongest,
  };
}

const requestOf = ({ question, system, temperature, longest }) => ({
  question,
  messages: [...(system.trim() ? [{ role: "system", content: system }] : []), { role: "user", content: question }],
  settings: { max_tokens: Number(longest) || 128, temperature: Number(temperature) || 0, seed: 0 },
});

function NoModels({ options, error }) {
  const isEmpty = options && !options.models.length;
  return html`<${Head} title="Chat" /><${Fault} error=${error} />${!options && html`<${Loading} />`}${
      isEmpty &&
      html`<div class="card empty">
        <p>There are no models yet: start the studio with <code>--model MODEL</code>, or train one.</p>
      </div>`
    }`;
}

const HeadButtons = ({ canTrain, isMaking, train }) =>
  html`<a class="btn" href="/studio/preferences" download>Preferences as JSONL</a
    ><button class="btn" disabled=${!canTrain} aria-disabled=${isMaking} onClick=${() => train()}>
      Train on preferences
    </button>`;

// The choice of the models, and the settings of their answers.
function ModelTools({ form, options }) {
  const { models, setModels, temperature, setTemperature, longest, setLongest } = form;
  const { besides, instead } = offeredModels(models, options);
  const unused = besides.find((name) => !models.includes(name));
  const select = (model, place) => {
    const offered = (models.length === 1 ? instead : besides).filter(
      (name) => name === model || !models.includes(name),
    );
    const choose = (event) => setModels(models.map((old, index) => (index === place ? event.target.value : old)));
    return html`<label key=${place}
      >${place === 0 ? "models" : "and"}${" "}<select
        value=${model}
        aria-label=${`model ${place + 1}`}
        onChange=${choose}
      >
        <${Names} names=${offered} value=${model} /></select
    ></label>`;
  };
  return html`<div class="tools">
    ${models.map(select)}
    <${Button}
      text="Add a model"
      off=${models.length > 3 || !unused}
      onClick=${() => setModels([...models, unused])}
    /><${Button} text="Remove the last" off=${models.length === 1} onClick=${() => setModels(models.slice(0, -1))} />
    <label
      >temperature${" "}<input
        type="number"
        min="0"
        max="2"
        step="0.1"
        value=${temperature}
        onInput=${(event) => setTemperature(event.target.value)} /></label
    ><label
      >longest answer${" "}<input
        type="number"
        min="1"
        max="4096"
        value=${longest}
        onInput=${(event) => setLongest(event.target.value)}
    /></label>
  </div>`;
}

function QuestionFields({ form, conversation, keptCount }) {
  const { question, setQuestion, system, setSystem } = form;
  const { busy, stop } = conversation;
  const submitByKey = (event) => {
    if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) event.target.form.requestSubmit();
  };
  return html`<details>
      <summary>System message</summary>
      <br /><textarea
        rows="2"
        aria-label="System message"
        value=${system}
        onInput=${(event) => setSystem(event.target.value)}
      />
    </details>
    <${Field}
      name="Question"
      input=${html`<textarea
        rows="3"
        id="question"
        value=${question}
        onInput=${(event) => setQuestion(event.target.value)}
        onKeyDown=${submitByKey}
      />`}
    />
    <div class="tools">
      <button class="btn main" disabled=${!question.trim()} aria-disabled=${busy}>
        ${busy ? "Answering …" : "Ask"}</button
      ><${Button} text="Stop" class="btn" off=${!busy} onClick=${stop} /><span class="hint"
        >Ctrl-Enter asks. Click to mark the better answer: it is kept as a row to train
        on${keptCount ? html` (<b>${number(keptCount)} kept</b>)` : ""}.</span
      >
    </div>`;
}
