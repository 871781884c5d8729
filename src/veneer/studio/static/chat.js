// Base and adapters side by side. Each answer has its time and tokens; a click keeps the better one as a preference.
import { html, useEffect, useRef, useState } from "/static/preact.js";
import { broken, make, reach, useAct, useKept, useOptions } from "/static/lib.js";
import { counted, link, number } from "/static/figures.js";
import { Banner, Button, Fault, Head, Loading } from "/static/parts.js";

async function stream(model, messages, settings, signal, onText) {
  const began = performance.now();
  let first = null,
    tokens = 0,
    text = "",
    rest = "",
    reason = null;
  const answer = await reach("/v1/chat/completions", {
    method: "POST",
    signal,
    headers: { "content-type": "application/json" },
    body: JSON.stringify({ model, messages, stream: true, stream_options: { include_usage: true }, ...settings }),
  });
  const reader = answer.body.pipeThrough(new TextDecoderStream()).getReader();
  for (;;) {
    const { done, value } = await reader.read().catch(broken);
    if (done) break;
    rest += value;
    const lines = rest.split("\n");
    rest = lines.pop();
    for (const line of lines) {
      if (!line.startsWith("data: ") || line === "data: [DONE]") continue;
      const piece = JSON.parse(line.slice(6));
      if (piece.error) throw new Error(piece.error.message);
      if (piece.usage) tokens = piece.usage.completion_tokens;
      const choice = piece.choices[0];
      if (choice && choice.finish_reason) reason = choice.finish_reason;
      const more = choice && choice.delta.content;
      if (more) {
        first ??= performance.now() - began;
        text += more;
        onText(text);
      }
    }
  }
  return { text, tokens, first, reason, seconds: (performance.now() - began) / 1000 };
}

export function Chat({ query }) {
  const { value: fresh, error: missing } = useOptions();
  const known = useRef(null);
  if (fresh) known.current = fresh;
  const options = known.current;
  const at = (name) => `chat ${name} ${query.model || ""}`;
  const [models, setModels] = useKept(at("models"), null),
    [question, ask_] = useKept(at("question"), ""),
    [system, setSystem] = useKept(at("system"), ""),
    [temperature, heat] = useKept(at("temperature"), "0"),
    [longest, setLongest] = useKept(at("longest"), "128");
  const [asked, setAsked] = useKept(at("asked"), null),
    [answers, setAnswers] = useKept(at("answers"), {}),
    [marked, mark] = useKept(at("marked"), null),
    [kept, keep] = useState(0),
    [busy, work] = useState(false);
  const stop = useRef(null);
  // When the page is left, nobody reads the rest of the answers.
  useEffect(() => () => stop.current && stop.current.abort(), []);
  // The name of a checkpoint is that of its adapter, followed by its step.
  const baseOf = (name) => options.adapters[name] || options.adapters[name.replace(/-step-[0-9]+$/, "")];
  useEffect(() => {
    if (!options) return;
    const asked = query.model && (baseOf(query.model) || options.models.includes(query.model)) ? query.model : null;
    if (models && (!asked || models.includes(asked) || answers[models[0]])) return;
    const named = asked || Object.keys(options.adapters)[0];
    setModels(named ? [...new Set([baseOf(named) || named, named])] : options.models.slice(0, 1));
  }, [options]);
  const base = options && models && (baseOf(models[models.length - 1]) || models[0]);
  const offered =
    options && models
      ? [
          ...new Set([
            ...options.models.filter((name) => name === base),
            ...Object.keys(options.adapters).filter((name) => options.adapters[name] === base),
            ...models,
          ]),
        ]
      : [];
  const unused = offered.find((name) => !models.includes(name));
  const messages = (text) => [
    ...(system.trim() ? [{ role: "system", content: system }] : []),
    { role: "user", content: text },
  ];
  const run = async (event) => {
    event.preventDefault();
    // No other question is asked until all answers to the last one are complete.
    if (stop.current || !question.trim()) return;
    stop.current = new AbortController();
    const sent = messages(question);
    work(true);
    setAsked({ question, sent, models });
    setAnswers({});
    forget(null);
    const settings = { max_tokens: Number(longest) || 128, temperature: Number(temperature) || 0, seed: 0 };
    // The first model loads the base if necessary; then all models answer at once, in one batch over that base.
    await Promise.all(
      models.map(async (model) => {
        // An adapter answers over the base as its run held it. For comparison, the base itself is held in the same way.
        const held = baseOf(model) ? undefined : models.find(baseOf);
        try {
          const made = await stream(
            model,
            sent,
            held ? { ...settings, veneer: { held_as: held } } : settings,
            stop.current.signal,
            (text) => setAnswers((old) => ({ ...old, [model]: { text } })),
          );
          setAnswers((old) => ({ ...old, [model]: made }));
        } catch (problem) {
          if (problem.name !== "AbortError") setAnswers((old) => ({ ...old, [model]: { text: "", error: problem } }));
        }
      }),
    );
    stop.current = null;
    work(false);
  };
  // An answer can be the better one if another model's answer differs from it. An answer that was cut cannot: a model
  // trained on it would learn to end there.
  const answered = (model) => Boolean(answers[model] && answers[model].seconds !== undefined && answers[model].text);
  const whole = (model) => answered(model) && answers[model].reason !== null && answers[model].reason !== "length";
  const others = (model) => asked.models.filter((one) => answered(one) && answers[one].text !== answers[model].text);
  // The response may arrive after the next question was asked: a mark belongs to the question that it was made for.
  const [prefer, keeping, unkept, forget] = useAct(async (model) => {
    let found = null;
    for (const other of others(model))
      found = await make("/studio/preferences", {
        prompt: asked.sent,
        chosen: answers[model].text,
        rejected: answers[other].text,
      });
    mark({ asked, model });
    keep(found.kept);
  });
  const best = marked && marked.asked === asked ? marked.model : null;
  const [train, making, unmade] = useAct(async () => {
    const file = await make("/studio/preferences/file", {});
    location.hash = link("new", "", { file: file.id, objective: "dpo" });
  });
  if (!options || !models)
    return html`<${Head} title="Chat" /><${Fault} error=${missing} />${
        options
          ? !options.models.length &&
            html`<div class="card empty">
              <p>There are no models yet: start the studio with <code>--model MODEL</code>, or train one.</p>
            </div>`
          : html`<${Loading} />`
      }`;
  const gone = query.model && !baseOf(query.model) && !options.models.includes(query.model);
  return html`<${Head} title="Chat" about="Base and adapters answer side by side. They share one base in memory, held as in the run of the first adapter."><a class="btn" href="/studio/preferences" download>Preferences as JSONL</a><button class="btn" disabled=${!options.preferences && !kept} aria-disabled=${making} onClick=${() => train()}>Train on preferences</button></${Head}><${Fault} error=${unkept || unmade} />${gone && html`<${Banner}>The model ${query.model} does not exist, or was deleted; others are chosen below.</${Banner}>`}
    <form class="card" onSubmit=${run}><div class="stack"><div class="tools">${models.map(
      (model, place) =>
        html`<label key=${place}
          >${place === 0 ? "models" : "and"}${" "}<select
            value=${model}
            aria-label=${`model ${place + 1}`}
            onChange=${(event) => setModels(models.map((one, at) => (at === place ? event.target.value : one)))}
          >
            ${(models.length === 1 ? [...new Set([...options.models, ...Object.keys(options.adapters), ...models])] : offered).filter((name) => name === model || !models.includes(name)).map((name) => html`<option key=${name} value=${name} selected=${name === model}>${name}</option>`)}
          </select></label
        >`,
    )}
        <${Button} off=${models.length > 3 || !unused} onClick=${() => setModels([...models, unused])}>Add a model</${Button}><${Button} off=${models.length === 1} onClick=${() => setModels(models.slice(0, -1))}>Remove the last</${Button}>
        <label>temperature <input type="number" min="0" max="2" step="0.1" value=${temperature} onInput=${(event) => heat(event.target.value)} /></label><label>longest answer <input type="number" min="1" max="4096" value=${longest} onInput=${(event) => setLongest(event.target.value)} /></label></div>
      <details><summary>System message</summary><br /><textarea rows="2" aria-label="System message" value=${system} onInput=${(event) => setSystem(event.target.value)} /></details>
      <label class="field"><span>Question</span><textarea rows="3" id="question" value=${question} onInput=${(event) => ask_(event.target.value)} onKeyDown=${(
        event,
      ) => {
        if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) event.target.form.requestSubmit();
      }} /></label><div class="tools"><button class="btn main" disabled=${!question.trim()} aria-disabled=${busy}>${busy ? "Answering …" : "Ask"}</button><${Button} class="btn" off=${!busy} onClick=${() => stop.current.abort()}>Stop</${Button}><span class="hint">Ctrl-Enter asks. Click to mark the better answer: it is kept as a row to train on${kept ? html` (<b>${number(kept)} kept</b>)` : ""}.</span></div></div></form><br />
    ${
      asked &&
      html`<p class="turn">${asked.question}</p>
        <div class="chat">
          ${asked.models.map(
            (
              model,
            ) => html`<${Answer} key=${model} model=${model} kind=${baseOf(model) ? "adapter" : options.models.includes(model) ? "base" : "gone"} one=${answers[model] || { text: "" }} busy=${busy} best=${best === model}>
      ${answered(model) && !others(model).length && !busy && asked.models.some((one) => one !== model && answered(one)) && html`<span class="hint">No other answer differs from this one.</span>`}
      ${whole(model) && others(model).length > 0 && html`<${Button} off=${busy || keeping || best !== null} aria-pressed=${best === model} onClick=${() => prefer(model)}>${best === model ? "Kept as the better one" : "This one is better"}</${Button}>`}</${Answer}>`,
          )}
        </div>`
    }`;
}

const ENDS = {
  length: "The answer was cut here, so it cannot be trained on: allow longer answers.",
  none: "The answer broke off here, so it cannot be trained on.",
};

// The answer of one model. "…" alone means that the answer has not begun.
function Answer({ model, kind, one, busy, best, children }) {
  const done = one.seconds !== undefined,
    speed = one.seconds ? `, ${number(one.tokens / one.seconds, 1)} tokens/s` : "";
  const text = one.text.trim()
    ? one.text
    : html`<span class="quiet">${done ? "(an empty answer)" : busy ? "…" : ""}</span>`;
  return html`<section class=${`card answer ${best ? "best" : ""}`}>
    <header>
      <h2>${model}</h2>
      <span class="tag">${kind}</span>
    </header>
    <div class="text" aria-live="polite">
      ${one.error ? html`<span class="bad" role="alert">${one.error.message}</span>` : text}
    </div>
    <div class="tools">
      <span class="hint"
        >${done ? `${counted(one.tokens, "token")} in ${number(one.seconds, 2)} s${one.first ? `, the first after ${number(one.first)} ms` : ""}${speed}` : busy || one.error ? "" : "Stopped."}</span
      >${done && html`<span class="warn">${ENDS[one.reason ?? "none"]}</span>`}${children}
    </div>
  </section>`;
}
