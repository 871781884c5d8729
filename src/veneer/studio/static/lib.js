// Requests to the studio, the store of its runs and jobs, which is kept up to date, and values that pages keep.
import { useEffect, useRef, useState } from "/static/preact.js";

// Refusals are requested as ordinary answers, since Chromium reports every status of 400 and above as an error of the page.
const OWN = { "x-refusals": "answered" };
const refused = (answer) => !answer.ok || answer.headers.has("x-refused");
// The studio, or a proxy in front of it, cannot answer now but may later. The message of the browser is not used: it differs
// between browsers, and names no cause.
class Away extends Error {
  constructor(said = "The studio does not answer. If it was stopped, start it again.") {
    super(said);
  }
}
export const broken = (error) => {
  throw error.name === "TypeError" ? new Away() : error;
};
const contentOf = (answer) =>
  ((answer.headers.get("content-type") || "").includes("json") ? answer.json() : answer.text()).catch(broken);
// An answer that is not a refusal. The caller reads its content.
export async function reach(path, options = {}) {
  const answer = await fetch(path, { ...options, headers: { ...options.headers, ...OWN } }).catch(broken);
  if (!refused(answer)) return answer;
  const content = await contentOf(answer),
    said = content && content.error ? content.error.message : `the studio answers ${answer.status}`;
  // The user may open the new link in another window, so the request is repeated later, as if the studio did not answer.
  if (answer.status === 401) {
    store.closed = true;
    tell();
    throw new Away(said);
  }
  throw answer.status >= 500 ? new Away(said) : new Error(said);
}
export const ask = async (path, options) => contentOf(await reach(path, options));
export const apiPath = (path, query) => `${path}?${new URLSearchParams(query)}`;
export const send = (path, body, { method = "POST", headers = {}, signal = undefined } = {}) =>
  ask(path, {
    method,
    signal,
    headers: { ...headers, "content-type": "application/json" },
    body: JSON.stringify(body),
  });
// A request whose answer was lost is sent again with the same key. The studio recognises the key, and creates nothing twice.
const keys = new Map();
export async function keyed(what, act) {
  if (!keys.has(what)) keys.set(what, [...crypto.getRandomValues(new Uint32Array(4))].join("-"));
  try {
    const made = await act({ "idempotency-key": keys.get(what) });
    keys.delete(what);
    return made;
  } catch (error) {
    if (!(error instanceof Away)) keys.delete(what);
    throw error;
  }
}
export const make = (path, body) => keyed(path + JSON.stringify(body), (headers) => send(path, body, { headers }));

export const store = { runs: new Map(), jobs: new Map(), files: "", connected: false, closed: false };
const listeners = new Set();
let told = 0;
function tell() {
  told += 1;
  for (const listener of listeners) listener();
}
export function useStore() {
  const [, again] = useState(0);
  const seen = told;
  useEffect(() => {
    const listener = () => again((count) => count + 1);
    listeners.add(listener);
    // Effects run some time after a page is drawn. A change in the meantime has not reached this listener.
    if (told !== seen) listener();
    return () => listeners.delete(listener);
  }, []);
  return store;
}

// Polls for changes. A connection that stays open would be one of only six that all tabs of a browser have for an address. A
// page that is not visible waits until it is. After a restart of the studio, the answer has everything, and replaces the store.
export async function connect() {
  for (let version = ""; ;) {
    const changes = await ask(apiPath("/studio/changes", { since: version }), {
      signal: AbortSignal.timeout(30_000),
    }).catch(() => null);
    if (!changes) {
      if (store.connected) {
        store.connected = false;
        tell();
      }
    } else if (changes.version !== version || changes.files !== store.files || !store.connected || store.closed) {
      version = changes.version;
      take(changes);
    }
    await new Promise((go) => setTimeout(go, changes ? 400 : 2000));
    if (document.hidden) await new Promise((go) => document.addEventListener("visibilitychange", go, { once: true }));
  }
}

function take(changes) {
  if (changes.whole) {
    store.runs.clear();
    store.jobs.clear();
  }
  for (const run of changes.runs) store.runs.set(run.name, run);
  for (const job of changes.jobs) store.jobs.set(job.id, job);
  for (const name of changes.removed) store.runs.delete(name);
  for (const id of changes.removed_jobs) store.jobs.delete(id);
  store.files = changes.files;
  store.connected = true;
  store.closed = false;
  tell();
}

// Sends a request, first after `begin` ms, and passes each answer to `heard`. If the studio does not answer, the request is
// repeated. If `again` is called while a request is in progress, the next one follows `pause` ms after its answer, so that
// answers arrive even if changes never stop.
export function asking(get, heard, { pause = 0, begin = 0 } = {}) {
  let left = false,
    wait = null,
    under = false,
    more = false;
  const later = (ms) => {
    wait = setTimeout(go, ms);
  };
  async function go() {
    wait = null;
    under = true;
    more = false;
    const answer = await get().then(
      (value) => ({ value, error: null }),
      (error) => ({ error }),
    );
    under = false;
    if (left) return;
    heard(answer);
    if (answer.error instanceof Away) later(2000);
    else if (more) later(pause);
  }
  if (begin) later(begin);
  else go();
  return {
    again() {
      if (under) more = true;
      else if (!left && wait === null) later(pause);
    },
    leave() {
      left = true;
      clearTimeout(wait);
    },
  };
}

// The answers of several addresses with their errors, in order. They are requested again when `again` changes, at the earliest
// after `pause` ms. An error does not replace the last answer.
export function useEach(paths, again = 0, pause = 0) {
  const [found, set] = useState({}),
    asked = useRef([]),
    key = paths.join("\n");
  useEffect(() => {
    for (const one of asked.current) one.again();
  }, [again]);
  useEffect(() => {
    const told = (path) => (answer) =>
      set((old) => ({
        ...Object.fromEntries(Object.entries(old).filter(([one]) => paths.includes(one))),
        [path]: { value: null, ...old[path], ...answer },
      }));
    asked.current = paths.map((path) => asking(() => ask(path), told(path), { pause }));
    return () => {
      for (const one of asked.current) one.leave();
    };
  }, [key]);
  return paths.map((path) => found[path] || { value: null, error: null });
}
export const useAsked = (path, again = 0) =>
  useEach(path === null ? [] : [path], again)[0] || { value: null, error: null };

// The choices for forms, requested again when a run or a job has ended.
export function useOptions() {
  const { runs, jobs } = useStore();
  const ended = [
    [...runs.values()].filter((run) => run.state === "finished"),
    [...jobs.values()].filter((job) => job.status === "succeeded"),
  ];
  return useAsked("/studio/options", ended.map((list) => list.length).join());
}

// Runs one action at a time; a call during an action does nothing. A button that waits for an action is `aria-disabled`, since
// a `disabled` one loses the keyboard's focus.
export function useOnce() {
  const under = useRef(false),
    [busy, set] = useState(false);
  const once = async (act) => {
    if (under.current) return;
    under.current = true;
    set(true);
    try {
      await act();
    } finally {
      under.current = false;
      set(false);
    }
  };
  return [once, busy];
}

// The action of a click, one at a time, with three more values: whether it is in progress, its error, and a setter for the error.
export function useAct(act) {
  const [once, busy] = useOnce(),
    [error, fail] = useState(null);
  const go = (...given) =>
    once(async () => {
      fail(null);
      try {
        await act(...given);
      } catch (problem) {
        fail(problem);
      }
    });
  return [go, busy, error, fail];
}

// State of a page that is kept when the user leaves the page and comes back.
const kept = new Map();
export function useKept(name, first) {
  const [value, set] = useState(() => (kept.has(name) ? kept.get(name) : first));
  return [
    value,
    (next) =>
      set((old) => {
        const made = typeof next === "function" ? next(old) : next;
        kept.set(name, made);
        return made;
      }),
  ];
}
export const letGo = (name) => kept.delete(name);
