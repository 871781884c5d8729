// What the pages share: asking the studio, the store of runs and jobs, which is kept right, and figures.
import { html, useEffect, useLayoutEffect, useRef, useState } from "/static/preact.js";

// A refusal is asked for as an answer: Chromium takes every status of 400 and above for an error of the page.
const OWN = { "x-refusals": "answered" };
const refused = (answer) => !answer.ok || answer.headers.has("x-refused");
// The studio, or what stands before it, cannot answer now and may later. What browsers say where nobody answers differs,
// and names no cause.
class Away extends Error { constructor(said = "The studio does not answer. Where it was stopped, start it again; what runs goes on meanwhile.") { super(said); } }
export const broken = (error) => { throw error.name === "TypeError" ? new Away() : error; };
const contentOf = (answer) => ((answer.headers.get("content-type") || "").includes("json") ? answer.json() : answer.text()).catch(broken);
// An answer that is no refusal, whose content is read by whoever asks.
export async function reach(path, options = {}) {
  const answer = await fetch(path, { ...options, headers: { ...options.headers, ...OWN } }).catch(broken);
  if (!refused(answer)) return answer;
  const content = await contentOf(answer), said = content && content.error ? content.error.message : `the studio answers ${answer.status}`;
  // Whoever is asked who one is may open the new link in another window: it is asked again, as where nobody answers.
  if (answer.status === 401) { store.closed = true; tell(); throw new Away(said); }
  throw answer.status >= 500 ? new Away(said) : new Error(said);
}
export const ask = async (path, options) => contentOf(await reach(path, options));
export const send = (path, body, method = "POST", signal = undefined) =>
  ask(path, { method, signal, headers: { "content-type": "application/json" }, body: JSON.stringify(body) });

export const store = { runs: new Map(), jobs: new Map(), files: "", connected: false, closed: false };
const listeners = new Set();
let told = 0;
function tell() { told += 1; for (const listener of listeners) listener(); }
export function useStore() {
  const [, again] = useState(0);
  const seen = told;
  useEffect(() => {
    const listener = () => again((count) => count + 1);
    listeners.add(listener);
    // Effects run some time after a page is drawn: what was told in between has reached nobody here.
    if (told !== seen) listener();
    return () => listeners.delete(listener);
  }, []);
  return store;
}

// What has changed is asked for again and again: a connection that stays open would be one of the six that a browser has for
// an address, in all of its tabs together. A page that is not to be seen waits until it is. Where its last answer is of
// another start of the studio, it is told all there is, and what is not told any more is gone.
export async function connect() {
  for (let version = ""; ;) {
    const changes = await ask(apiPath("/studio/changes", { since: version }), { signal: AbortSignal.timeout(30_000) }).catch(() => null);
    if (!changes) { if (store.connected) { store.connected = false; tell(); } }
    else if (changes.version !== version || changes.files !== store.files || !store.connected || store.closed) { version = changes.version; take(changes); }
    await new Promise((go) => setTimeout(go, changes ? 400 : 2000));
    if (document.hidden) await new Promise((go) => document.addEventListener("visibilitychange", go, { once: true }));
  }
}

function take(changes) {
  if (changes.whole) { store.runs.clear(); store.jobs.clear(); }
  for (const run of changes.runs) store.runs.set(run.name, run);
  for (const job of changes.jobs) store.jobs.set(job.id, job);
  for (const name of changes.removed) store.runs.delete(name);
  for (const id of changes.removed_jobs) store.jobs.delete(id);
  store.files = changes.files;
  store.connected = true;
  store.closed = false;
  tell();
}

// Asks for what stands at an address and tells each answer. Where the studio is away it is asked until it answers, and what
// is to be asked again while an answer is on its way is asked after it, so that none waits for a newer one without end.
function asking(path, pause, tell) {
  let left = false, wait = null, under = false, more = false;
  const later = (ms) => { wait = setTimeout(go, ms); };
  async function go() {
    wait = null; under = true; more = false;
    const answer = await ask(path).then((value) => ({ value, error: null }), (error) => ({ error }));
    under = false;
    if (left) return;
    tell(answer);
    if (answer.error instanceof Away) later(2000); else if (more) later(pause);
  }
  go();
  return {
    again() { if (under) more = true; else if (!left && wait === null) later(pause); },
    leave() { left = true; clearTimeout(wait); },
  };
}

// The answers of addresses, each with its error, in their order. They are asked for again when `again` is another one, and
// then not before so many ms have passed; an error stands beside the last answer and does not take its place.
export function useEach(paths, again = 0, pause = 0) {
  const [found, set] = useState({}), asked = useRef([]), key = paths.join("\n");
  useEffect(() => { for (const one of asked.current) one.again(); }, [again]);
  useEffect(() => {
    const told = (path) => (answer) => set((old) => ({ ...Object.fromEntries(Object.entries(old).filter(([one]) => paths.includes(one))), [path]: { value: null, ...old[path], ...answer } }));
    asked.current = paths.map((path) => asking(path, pause, told(path)));
    return () => { for (const one of asked.current) one.leave(); };
  }, [key]);
  return paths.map((path) => found[path] || { value: null, error: null });
}
export const useAsked = (path, again = 0) => useEach(path === null ? [] : [path], again)[0] || { value: null, error: null };

// One thing at a time: what is begun while the last one is on its way is left out. A button that waits for it is
// `aria-disabled`, since one that is `disabled` loses the keyboard's focus.
export function useOnce() {
  const under = useRef(false), [busy, set] = useState(false);
  const once = async (act) => { if (under.current) return; under.current = true; set(true); try { await act(); } finally { under.current = false; set(false); } };
  return [once, busy];
}

// What was typed or chosen on a page, or has come there, which is there again when one comes back to it.
const kept = new Map();
export function useKept(name, first) {
  const [value, set] = useState(() => kept.has(name) ? kept.get(name) : first);
  return [value, (next) => set((old) => { const made = typeof next === "function" ? next(old) : next; kept.set(name, made); return made; })];
}
export const letGo = (name) => kept.delete(name);

export const number = (value, digits = 0) => value === null || value === undefined ? "–" :
  value.toLocaleString("en", { maximumFractionDigits: digits, minimumFractionDigits: digits });
export const loss = (value) => value === null || value === undefined ? "–" : value.toFixed(4).replace("-0.0000", "0.0000");
export const short = (value) => value === null || value === undefined ? "–" :
  value !== 0 && (Math.abs(value) < 1e-3 || Math.abs(value) >= 1e6) ? value.toExponential(2) : String(Number(value.toPrecision(4)));
export function duration(seconds) {
  if (seconds === null || seconds === undefined) return "–";
  if (seconds < 0.1) return `${number(1000 * seconds, seconds < 0.001 ? 2 : 0)} ms`;
  if (seconds < 60) return `${seconds < 10 ? seconds.toFixed(1) : Math.round(seconds)} s`;
  const minutes = Math.floor(Math.round(seconds) / 60);
  return minutes < 60 ? `${minutes} min ${Math.round(seconds) % 60} s` : `${Math.floor(minutes / 60)} h ${minutes % 60} min`;
}
export const size = (bytes) => bytes === null || bytes === undefined ? "–" : bytes < 1e6 ? `${number(bytes / 1e3, 1)} kB` : bytes < 1e9 ? `${number(bytes / 1e6)} MB` : `${number(bytes / 1e9, 2)} GB`;
export const moment = (seconds) => seconds ? new Date(seconds * 1000).toLocaleString("en-GB", { dateStyle: "medium", timeStyle: "short" }) : "–";
export const day = (seconds) => seconds ? new Date(seconds * 1000).toLocaleString("en-GB", { day: "numeric", month: "short", hour: "2-digit", minute: "2-digit" }) : "–";
export const date = (seconds) => seconds ? new Date(seconds * 1000).toLocaleDateString("en-GB", { day: "numeric", month: "short" }) : "";
export const clock = (seconds) => new Date(seconds * 1000).toLocaleTimeString("en-GB");
// A number of things, by the name of one.
export const counted = (count, one) => `${number(count)} ${one}${count === 1 ? "" : "s"}`;
// A word of a command line.
export const word = (text) => /^[A-Za-z0-9_./:@%+=,-]+$/.test(text) ? text : `'${text.replace(/'/g, "'\\''")}'`;
export const last = (path) => (path || "").replace(/\/+$/, "").split("/").pop();
export const shown = (value) => value === null || value === undefined ? "–" : typeof value === "object" ? JSON.stringify(value) : String(value);
export const link = (page, name = "", query = {}) => {
  const given = new URLSearchParams(query).toString();
  return `#/${page}${name === "" ? "" : `/${encodeURIComponent(name)}`}${given ? `?${given}` : ""}`;
};
export const apiPath = (path, query) => `${path}?${new URLSearchParams(query)}`;

export const Pill = ({ state, text = state }) => html`<span class=${`pill ${state}`}>${String(text).replace("_", " ")}</span>`;
export const Bar = ({ part, label }) => html`<span class="bar" role="img" aria-label=${label}><svg viewBox="0 0 100 1" preserveAspectRatio="none" aria-hidden="true"><rect width=${100 * Math.max(0, Math.min(1, part || 0))} height="1" /></svg></span>`;
// An answer of a model as a cell shows it: one without a letter would look like none.
export const Said = ({ text }) => text.trim() ? text : html`<span class="quiet">${text === "" ? "(empty)" : `(white space alone: ${JSON.stringify(text).slice(1, -1)})`}</span>`;
// What a page says first where something is not as it was asked for.
export const Banner = ({ children }) => html`<p class="banner" role="alert">${children}</p>`;
export const Fault = ({ error }) => error ? html`<${Banner}>${error.message}</${Banner}>` : null;
// What a page begins with; the window is called so too.
export function Head({ title, about, children }) {
  useLayoutEffect(() => { document.title = `${title} · veneer studio`; }, [title]);
  return html`<div class="head"><div class="grow"><h1>${title}</h1>${about && html`<p>${about}</p>`}</div>${children}</div>`;
}
export const Facts = ({ facts }) => html`<dl class="facts">${facts.filter(Boolean).map(([name, value, small]) => html`<div key=${name}><dt>${name}</dt><dd>${value}${small && html` <small>${small}</small>`}</dd></div>`)}</dl>`;
export const colour = (place) => `var(--c${place % 8})`;
export const Swatch = ({ place }) => html`<svg class="swatch" viewBox="0 0 11 11" aria-hidden="true"><rect rx="3" fill=${colour(place)} /></svg>`;
// Over plain HTTP from another machine browsers have no clipboard for pages, and copy what is selected.
async function copied(text) {
  if (navigator.clipboard) return navigator.clipboard.writeText(text);
  const area = document.createElement("textarea");
  area.value = text;
  document.body.append(area);
  area.select();
  document.execCommand("copy");
  area.remove();
}
export function Copy({ text, label = "Copy" }) {
  const [done, set] = useState(false);
  return html`<button type="button" class="btn small" onClick=${async () => { await copied(text); set(true); setTimeout(() => set(false), 1500); }}>${done ? "Copied" : label}</button>`;
}
// A button that has nothing to do at times, such as after it was pressed: were it `disabled`, or gone, it would lose the
// keyboard's focus.
export const Button = ({ off = false, onClick, children, ...rest }) => html`<button type="button" class="btn small" ...${rest} aria-disabled=${off} onClick=${(event) => off || onClick(event)}>${children}</button>`;
// A button for what cannot be undone: one click asks, and a second one within some seconds does it. Escape takes it back.
export function Sure({ text, about, onClick, disabled = false }) {
  const [asked, set] = useState(false);
  useEffect(() => { if (!asked) return () => {}; const wait = setTimeout(() => set(false), 5000); return () => clearTimeout(wait); }, [asked]);
  return html`<${Button} class="btn small danger" off=${disabled} aria-label=${asked ? `Really ${about}?` : about} onKeyDown=${(event) => event.key === "Escape" && set(false)} onClick=${(event) => { set(!asked); if (asked) onClick(event); }}>${asked ? `Really ${text.toLowerCase()}?` : text}</${Button}>`;
}
export function Segments({ label, value, options, onChange }) {
  return html`<div class="seg" role="group" aria-label=${label}>${options.map(([key, text]) => html`<button key=${key} type="button" aria-pressed=${String(value === key)} onClick=${() => onChange(key)}>${text}</button>`)}</div>`;
}
export function download(name, kind, text) {
  const address = URL.createObjectURL(new Blob([text], { type: kind }));
  const anchor = document.createElement("a");
  anchor.href = address;
  anchor.download = name;
  anchor.click();
  // A browser fetches it a while after the click, where training has the processor.
  setTimeout(() => URL.revokeObjectURL(address), 60_000);
}

// A text that a spreadsheet would take for a formula begins with an apostrophe.
const plain = (cell) => typeof cell === "string" && /^[=+\-@\t\r]/.test(cell) ? `'${cell}` : String(cell ?? "");
const quoted = (text) => /[",\n]/.test(text) ? `"${text.replace(/"/g, '""')}"` : text;
export const csvOf = (rows) => `${rows.map((row) => row.map((cell) => quoted(plain(cell))).join(",")).join("\n")}\n`;


// Whether the window is narrower than so many pixels.
export function useNarrow(pixels = 640) {
  const media = matchMedia(`(max-width: ${pixels}px)`);
  const [narrow, set] = useState(media.matches);
  useEffect(() => { const change = () => set(media.matches); change(); media.addEventListener("change", change); return () => media.removeEventListener("change", change); }, [pixels]);
  return narrow;
}
const roomFor = (columns) => columns.length > 5 ? 1000 : 640;

// A table; where the window has no room for its columns, a list of cards, each value below its column's name.
// Columns are [key, title, cell, value to sort by, class, value in a CSV where that is another one]. On a card "lead" is the heading, "pick" stands beside it, and
// "wrap" and "said" take the whole width. `room` is the width of a window, in pixels, that is too narrow.
export function Table({ columns, rows, keyOf, caption, head = (column) => column[1], order = () => undefined, mark = () => "", room = roomFor(columns) }) {
  const narrow = useNarrow(room);
  if (narrow) return html`<ul class="cards" aria-label=${caption}>${rows.map((row, place) => html`<li key=${keyOf(row)} class=${mark(row)}>
    ${columns.map(([key, title, cell, , kind]) => html`<div key=${key} class=${title ? kind || "" : `${kind || ""} act`}><span class="of">${title}</span>${cell(row, place)}</div>`)}</li>`)}</ul>`;
  return html`<div class="scroll"><table><caption class="visually-hidden">${caption}</caption><thead><tr>
    ${columns.map((column) => html`<th key=${column[0]} scope="col" class=${column[4] || ""} aria-sort=${order(column)}>${head(column)}</th>`)}
    </tr></thead><tbody>${rows.map((row, place) => html`<tr key=${keyOf(row)} class=${mark(row)}>${columns.map(([key, , cell, , kind]) => html`<td key=${key} class=${kind || ""}>${cell(row, place)}</td>`)}</tr>`)}</tbody></table></div>`;
}

// A table whose columns sort by a click; cards are sorted by a choice above them.
export function SortTable({ columns, rows, first, keyOf, caption, most = 200 }) {
  const [sort, set] = useState(first || { key: columns[0][0], down: false });
  const [count, more] = useState(most), narrow = useNarrow(roomFor(columns));
  const by = columns.find((column) => column[0] === sort.key) || columns[0];
  const valueOf = (row, [key, , , value]) => (value ? value(row) : row[key]) ?? null;
  // Whatever the case of its letters, a name stands where one looks for it.
  const placeOf = (row) => { const found = valueOf(row, by); return typeof found === "string" ? found.toLowerCase() : found; };
  const sorted = [...rows].sort((one, other) => {
    const [a, b] = [placeOf(one), placeOf(other)];
    if (a === null || b === null) return a === b ? 0 : a === null ? 1 : -1;
    return (a < b ? -1 : a > b ? 1 : 0) * (sort.down ? -1 : 1);
  });
  const turn = (key, kind) => set({ key, down: sort.key === key ? !sort.down : kind === "num" });
  const head = ([key, title, , sortable, kind]) => sortable === false ? title : html`<button onClick=${() => turn(key, kind)}>${title}${sort.key === key ? (sort.down ? " ↓" : " ↑") : ""}</button>`;
  const order = (column) => sort.key === column[0] ? (sort.down ? "descending" : "ascending") : "none";
  const values = () => { const kept = columns.filter((column) => column[3] !== false && column[1]); return csvOf([kept.map((column) => column[1]), ...sorted.map((row) => kept.map((column) => column[5] ? column[5](row) : valueOf(row, column)))]); };
  return html`${narrow && html`<p class="tools inset"><label>sorted by <select value=${sort.key} onChange=${(event) => set({ ...sort, key: event.target.value })}>${columns.filter((column) => column[3] !== false).map(([key, title]) => html`<option key=${key} value=${key} selected=${key === sort.key}>${title}</option>`)}</select></label><button class="btn small" onClick=${() => set({ ...sort, down: !sort.down })}>${sort.down ? "the largest first" : "the smallest first"}</button></p>`}
    <${Table} columns=${columns} rows=${sorted.slice(0, count)} keyOf=${keyOf} caption=${caption} head=${head} order=${order} />
    ${sorted.length > count && html`<p class="empty"><button class="btn" onClick=${() => more(count + 500)}>Show more (${number(sorted.length - count)})</button></p>`}
    <p class="under"><button class="btn small" aria-label=${`${caption} as CSV`} onClick=${() => download(`${caption.toLowerCase().replace(/[^a-z0-9]+/g, "-")}.csv`, "text/csv", values())}>CSV</button></p>`;
}

// What a click does, once at a time. With it come whether it is under way, what went wrong, and what says another word of that.
export function useAct(act) {
  const [once, busy] = useOnce(), [error, fail] = useState(null);
  const go = (...given) => once(async () => { fail(null); try { await act(...given); } catch (problem) { fail(problem); } });
  return [go, busy, error, fail];
}
// What can be chosen, asked again when a run or a job has ended.
export function useOptions() {
  const { runs, jobs } = useStore();
  const ended = [[...runs.values()].filter((run) => run.state === "finished"), [...jobs.values()].filter((job) => job.status === "succeeded")];
  return useAsked("/studio/options", ended.map((list) => list.length).join());
}
export const Loading = () => html`<p class="card empty">Loading …</p>`;
// Asks until the studio answers; what is returned gives it up.
export function untilAnswered(make, found, failed, begin = 0) {
  let left = false, wait = null;
  const again = () => make().then((value) => left || found(value), (problem) => { if (left) return; failed(problem); if (problem instanceof Away) wait = setTimeout(again, 2000); });
  wait = setTimeout(again, begin);
  return () => { left = true; clearTimeout(wait); };
}
// A number that is typed. One that is too large stays a text, which is refused: in JSON it would be null, which is "not given".
export const numeral = (text) => Number.isFinite(Number(text)) ? Number(text) : text;
// The studio knows a request again by its key. One whose answer was lost is sent again with the key that it had, so that what it
// has made is not made twice.
const keys = new Map();
export async function keyed(what, send) {
  if (!keys.has(what)) keys.set(what, [...crypto.getRandomValues(new Uint32Array(4))].join("-"));
  try { const made = await send({ "idempotency-key": keys.get(what) }); keys.delete(what); return made; } catch (error) { if (!(error instanceof Away)) keys.delete(what); throw error; }
}
export const make = (path, body) => keyed(path + JSON.stringify(body), (headers) => ask(path, { method: "POST", headers: { ...headers, "content-type": "application/json" }, body: JSON.stringify(body) }));
