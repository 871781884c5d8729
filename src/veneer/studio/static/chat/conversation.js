// A question to several models, and their answers, which arrive piece by piece.
import { useEffect, useRef, useState } from "/static/library/preact.js";
import { useKept } from "/static/common/hooks.js";
import { reach, rethrow } from "/static/common/requests.js";

const unique = (names) => [...new Set(names)];

// The base of an adapter, or of a checkpoint, whose name is that of its adapter, followed by its step.
export const baseOf = (name, { adapters }) => adapters[name] || adapters[name.replace(/-step-[0-9]+$/, "")];

// Whether the studio has a model with this name.
export const isKnown = (name, options) => Boolean(baseOf(name, options)) || options.models.includes(name);

// The models that a page begins with: the wanted one, or else the first adapter, after its base.
export function firstModels(wanted, options) {
  const name = wanted || Object.keys(options.adapters)[0];
  return name ? unique([baseOf(name, options) || name, name]) : options.models.slice(0, 1);
}

// The models that can answer next to the chosen ones: they share their base. A single one can be replaced by any model.
export function offeredModels(chosen, options) {
  const adapters = Object.keys(options.adapters);
  const base = baseOf(chosen[chosen.length - 1], options) || chosen[0];
  const siblings = adapters.filter((name) => options.adapters[name] === base);
  return {
    besides: unique([...options.models.filter((name) => name === base), ...siblings, ...chosen]),
    instead: unique([...options.models, ...adapters, ...chosen]),
  };
}

// Asks a model, and calls `onText` with the text so far whenever a piece of the answer arrives. Returns the text with
// its number of tokens, the ms before the first piece, the seconds before the last one, and the reason why it ended.
async function streamAnswer(request, signal, onText) {
  const began = performance.now();
  const answer = { text: "", tokens: 0, first: null, reason: null };
  const response = await reach("/v1/chat/completions", {
    method: "POST",
    signal,
    headers: { "content-type": "application/json" },
    body: JSON.stringify({ ...request, stream: true, stream_options: { include_usage: true } }),
  });
  for await (const piece of piecesOf(response)) {
    if (piece.error) throw new Error(piece.error.message);
    if (piece.usage) answer.tokens = piece.usage.completion_tokens;
    const choice = piece.choices[0];
    if (!choice) continue;
    if (choice.finish_reason) answer.reason = choice.finish_reason;
    if (!choice.delta.content) continue;
    answer.first ??= performance.now() - began;
    answer.text += choice.delta.content;
    onText(answer.text);
  }
  return { ...answer, seconds: (performance.now() - began) / 1000 };
}

// The values of a stream of server-sent events.
async function* piecesOf(response) {
  const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
  let rest = "";
  for (;;) {
    const { done, value } = await reader.read().catch(rethrow);
    if (done) return;
    const lines = (rest + value).split("\n");
    rest = lines.pop();
    for (const line of lines) if (line.startsWith("data: ") && line !== "data: [DONE]") yield JSON.parse(line.slice(6));
  }
}

// The last question and its answers, by the names of the models. `kept` is the name under which they are kept.
export function useConversation(kept) {
  const [asked, setAsked] = useKept(`chat asked ${kept}`, null);
  const [answers, setAnswers] = useKept(`chat answers ${kept}`, {});
  const [busy, setBusy] = useState(false);
  const controller = useRef(null);
  const stop = () => controller.current && controller.current.abort();
  // When the page is left, nobody reads the rest of the answers.
  useEffect(() => stop, []);
  const setAnswer = (model, answer) => setAnswers((old) => ({ ...old, [model]: answer }));
  const answerOf = async (model, request) => {
    try {
      const { signal } = controller.current;
      const answer = await streamAnswer({ model, ...request }, signal, (text) => setAnswer(model, { text }));
      setAnswer(model, answer);
    } catch (error) {
      if (error.name !== "AbortError") setAnswer(model, { text: "", error });
    }
  };
  // Asks the models at once. The first one loads the base if necessary; then all answer in one batch over that base.
  const ask = async ({ question, messages, models, settings, options }) => {
    controller.current = new AbortController();
    setBusy(true);
    setAsked({ question, sent: messages, models });
    setAnswers({});
    // An adapter answers over the base as its run held it. For comparison, the base itself is held in the same way.
    const adapter = models.find((model) => baseOf(model, options));
    const held = (model) => (adapter && !baseOf(model, options) ? { veneer: { held_as: adapter } } : {});
    await Promise.all(models.map((model) => answerOf(model, { messages, ...settings, ...held(model) })));
    controller.current = null;
    setBusy(false);
  };
  return { asked, answers, busy, ask, stop, isAsking: () => controller.current !== null };
}

// An answer that is complete, even if it was cut.
export const isDone = (answer) => Boolean(answer && answer.seconds !== undefined && answer.text);

// The models whose answers to the question differ from that of this model.
export const modelsThatDiffer = (model, { asked, answers }) =>
  asked.models.filter((other) => isDone(answers[other]) && answers[other].text !== answers[model].text);
