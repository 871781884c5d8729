// The small parts of all pages: heads, messages, facts, marks and buttons.
import { html, useEffect, useLayoutEffect, useState } from "/static/library/preact.js";
import { csvOf, download, saveSvg } from "/static/common/downloads.js";

// The state of a run, a job or a file.
export const Pill = ({ state, text = state }) =>
  html`<span class=${`pill ${state}`}>${String(text).replace("_", " ")}</span>`;

// A bar of which a part is filled.
export const Bar = ({ part, label }) =>
  html`<span class="bar" role="img" aria-label=${label}
    ><svg viewBox="0 0 100 1" preserveAspectRatio="none" aria-hidden="true">
      <rect width=${100 * Math.max(0, Math.min(1, part || 0))} height="1" /></svg
  ></span>`;

// The bar of a run's steps.
export const StepsBar = ({ run }) =>
  html`<${Bar} part=${run.steps ? run.step / run.steps : 0} label=${`${run.step} of ${run.steps} steps`} />`;

// An answer of a model in a cell. An empty answer is marked, since it would look like a missing one.
export function AnswerText({ text }) {
  if (text.trim()) return text;
  const kind = text === "" ? "(empty)" : `(only white space: ${JSON.stringify(text).slice(1, -1)})`;
  return html`<span class="quiet">${kind}</span>`;
}

// A message at the top of a page if something differs from the user's request.
export const Banner = ({ text }) => html`<p class="banner" role="alert">${text}</p>`;

// The message of an error, if there is one.
export const Fault = ({ error }) => (error ? html`<${Banner} text=${error.message} />` : null);

// A card in the place of content that is still loading.
export const Loading = () => html`<p class="card empty">Loading …</p>`;

// The beginning of a page, with its tools at the right. Its title becomes the title of the window.
export function Head({ title, about, tools }) {
  useLayoutEffect(() => {
    document.title = `${title} · veneer studio`;
  }, [title]);
  return html`<div class="head">
    <div class="grow">
      <h1>${title}</h1>
      ${about && html`<p>${about}</p>`}
    </div>
    ${tools}
  </div>`;
}

// Values with their names. Facts are [name, value, small text behind the value]; those that are null are left out.
export const Facts = ({ facts }) =>
  html`<dl class="facts">
    ${facts.filter(Boolean).map(
      ([name, value, small]) =>
        html`<div key=${name}>
          <dt>${name}</dt>
          <dd>${value}${small && html` <small>${small}</small>`}</dd>
        </div>`,
    )}
  </dl>`;

// The colour of the series with this number.
export const colour = (place) => `var(--c${place % 8})`;

// A square in the colour of a series.
export const Swatch = ({ place }) =>
  html`<svg class="swatch" viewBox="0 0 11 11" aria-hidden="true"><rect rx="3" fill=${colour(place)} /></svg>`;

// Pages over plain HTTP from another machine have no clipboard in browsers, but can copy a selection.
async function copyToClipboard(text) {
  if (navigator.clipboard) return navigator.clipboard.writeText(text);
  const area = document.createElement("textarea");
  area.value = text;
  document.body.append(area);
  area.select();
  document.execCommand("copy");
  area.remove();
}

// A button that copies a text.
export function Copy({ text, label = "Copy" }) {
  const [isCopied, setCopied] = useState(false);
  const copy = async () => {
    await copyToClipboard(text);
    setCopied(true);
    setTimeout(() => setCopied(false), 1500);
  };
  return html`<button type="button" class="btn small" onClick=${copy}>${isCopied ? "Copied" : label}</button>`;
}

// A button that is inactive at times, such as after a click. If it were `disabled` or removed, it would lose the
// keyboard's focus.
export const Button = ({ text, off = false, onClick, ...rest }) =>
  html`<button
    type="button"
    class="btn small"
    ...${rest}
    aria-disabled=${off}
    onClick=${(event) => off || onClick(event)}
  >
    ${text}
  </button>`;

// A button for an action that cannot be undone: the first click asks, and a second one within 5 s confirms. Escape
// cancels.
export function SureButton({ text, about, onClick, disabled = false }) {
  const [isAsking, setAsking] = useState(false);
  useEffect(() => {
    if (!isAsking) return () => {};
    const timer = setTimeout(() => setAsking(false), 5000);
    return () => clearTimeout(timer);
  }, [isAsking]);
  const click = (event) => {
    setAsking(!isAsking);
    if (isAsking) onClick(event);
  };
  return html`<${Button}
    class="btn small danger"
    text=${isAsking ? `Really ${text.toLowerCase()}?` : text}
    off=${disabled}
    aria-label=${isAsking ? `Really ${about}?` : about}
    onKeyDown=${(event) => event.key === "Escape" && setAsking(false)}
    onClick=${click}
  />`;
}

// A field of a form: its name, its input, and a hint below.
export const Field = ({ name, hint, input }) =>
  html`<label class="field"><span>${name}</span>${input}${hint && html`<small>${hint}</small>`}</label>`;

// Buttons of which one is pressed. Options are [value, text].
export const Segments = ({ label, value, options, onChange }) =>
  html`<div class="seg" role="group" aria-label=${label}>
    ${options.map(
      ([option, text]) =>
        html`<button
          key=${option}
          type="button"
          aria-pressed=${String(value === option)}
          onClick=${() => onChange(option)}
        >
          ${text}
        </button>`,
    )}
  </div>`;

// The options of a `select`: [value, text].
export const Options = ({ options, value }) =>
  options.map(
    ([option, text]) => html`<option key=${option} value=${option} selected=${option === value}>${text}</option>`,
  );

// Options whose texts are their values.
export const Names = ({ names, value }) =>
  html`<${Options} options=${names.map((name) => [name, name])} value=${value} />`;

// A slider that smooths curves, as the weight of the mean of earlier values.
export const Smoothing = ({ weight, onChange }) =>
  html`<input
    type="range"
    min="0"
    max="0.99"
    step="0.01"
    value=${weight}
    onInput=${(event) => onChange(Number(event.target.value))}
  />`;

// The buttons that download a drawing: as it is, and its values, which `rows` returns.
export const DrawingDownloads = ({ title, drawing, file, rows }) =>
  html`<button class="btn small" aria-label=${`${title} as SVG`} onClick=${() => saveSvg(drawing.current, file)}>
      SVG</button
    ><button
      class="btn small"
      aria-label=${`${title} as CSV`}
      onClick=${() => download(`${file}.csv`, "text/csv", csvOf(rows()))}
    >
      CSV
    </button>`;
