// What components use to ask the studio, to run an action of a click, and to keep the state of a page.
import { useEffect, useRef, useState } from "/static/library/preact.js";
import { Away, ask } from "/static/common/requests.js";
import { useStore } from "/static/common/store.js";

// Sends a request, first after `begin` ms, and passes each answer to `onAnswer`. If the studio does not answer, the
// request is repeated. If `refresh` is called while a request is in progress, the next one follows `pause` ms after its
// answer, so that answers arrive even if changes never stop.
export function subscribe(request, onAnswer, { pause = 0, begin = 0 } = {}) {
  let isClosed = false;
  let timer = null;
  let isAsking = false;
  let isOutdated = false;
  const askLater = (ms) => {
    timer = setTimeout(askNow, ms);
  };
  async function askNow() {
    timer = null;
    isAsking = true;
    isOutdated = false;
    const answer = await request().then(
      (value) => ({ value, error: null }),
      (error) => ({ error }),
    );
    isAsking = false;
    if (isClosed) return;
    onAnswer(answer);
    if (answer.error instanceof Away) askLater(2000);
    else if (isOutdated) askLater(pause);
  }
  if (begin) askLater(begin);
  else askNow();
  return {
    refresh() {
      if (isAsking) isOutdated = true;
      else if (!isClosed && timer === null) askLater(pause);
    },
    close() {
      isClosed = true;
      clearTimeout(timer);
    },
  };
}

// The answers of several addresses with their errors, in order. They are requested again when `version` changes, at the
// earliest after `pause` ms. An error does not replace the last answer.
export function useAnswers(paths, version = 0, pause = 0) {
  const [answers, setAnswers] = useState({});
  const subscriptions = useRef([]);
  useEffect(() => {
    for (const subscription of subscriptions.current) subscription.refresh();
  }, [version]);
  useEffect(() => {
    const keepAnswer = (path) => (answer) =>
      setAnswers((old) => {
        const wanted = Object.entries(old).filter(([oldPath]) => paths.includes(oldPath));
        return { ...Object.fromEntries(wanted), [path]: { value: null, ...old[path], ...answer } };
      });
    subscriptions.current = paths.map((path) => subscribe(() => ask(path), keepAnswer(path), { pause }));
    return () => {
      for (const subscription of subscriptions.current) subscription.close();
    };
  }, [paths.join("\n")]);
  return paths.map((path) => answers[path] || { value: null, error: null });
}

// The answer of one address with its error. Without an address (null), both are null.
export const useAnswer = (path, version = 0) =>
  useAnswers(path === null ? [] : [path], version)[0] || { value: null, error: null };

// The first error among answers, or null.
export const errorIn = (answers) => (answers.find(({ error }) => error) || { error: null }).error;

// The choices for forms, requested again when a run or a job has ended.
export function useOptions() {
  const { runs, jobs } = useStore();
  const finished = [...runs.values()].filter((run) => run.state === "finished");
  const succeeded = [...jobs.values()].filter((job) => job.status === "succeeded");
  return useAnswer("/studio/options", `${finished.length},${succeeded.length}`);
}

// Runs one action at a time; a call during an action does nothing. Returns the function that runs an action, and
// whether one is in progress. A button that waits for an action is `aria-disabled`, since a `disabled` one loses the
// keyboard's focus.
export function useOnce() {
  const isRunning = useRef(false);
  const [busy, setBusy] = useState(false);
  const once = async (action) => {
    if (isRunning.current) return;
    isRunning.current = true;
    setBusy(true);
    try {
      await action();
    } finally {
      isRunning.current = false;
      setBusy(false);
    }
  };
  return [once, busy];
}

// The action of a click, one at a time, with three more values: whether it is in progress, its error, and a setter for
// the error.
export function useAction(action) {
  const [once, busy] = useOnce();
  const [error, setError] = useState(null);
  const act = (...given) =>
    once(async () => {
      setError(null);
      try {
        await action(...given);
      } catch (problem) {
        setError(problem);
      }
    });
  return [act, busy, error, setError];
}

const kept = new Map();

// State of a page that is kept when the user leaves the page and comes back.
export function useKept(name, first) {
  const [value, setValue] = useState(() => (kept.has(name) ? kept.get(name) : first));
  const setKept = (next) =>
    setValue((old) => {
      const made = typeof next === "function" ? next(old) : next;
      kept.set(name, made);
      return made;
    });
  return [value, setKept];
}

// Deletes kept state: the page begins anew.
export const dropKept = (name) => kept.delete(name);
