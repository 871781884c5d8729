// The runs and the jobs of the studio, which are kept up to date, and the state of the connection.
import { useEffect, useState } from "/static/library/preact.js";
import { Closed, apiPath, ask } from "/static/common/requests.js";

// `files` changes whenever a file does. `closed` means that the studio does not know this browser.
export const store = { runs: new Map(), jobs: new Map(), files: "", connected: false, closed: false };
const listeners = new Set();
let changeCount = 0;

function notify() {
  changeCount += 1;
  for (const listener of listeners) listener();
}

// The store. The component is drawn again after each change.
export function useStore() {
  const [, setCount] = useState(0);
  const drawnCount = changeCount;
  useEffect(() => {
    const listener = () => setCount((count) => count + 1);
    listeners.add(listener);
    // Effects run some time after a page is drawn. A change in the meantime has not reached this listener.
    if (changeCount !== drawnCount) listener();
    return () => listeners.delete(listener);
  }, []);
  return store;
}

// Polls for changes, without end. A connection that stays open would be one of only six that all tabs of a browser have
// for an address. A page that is not visible waits until it is. After a restart of the studio, the answer has
// everything, and replaces the store.
export async function connect() {
  for (let version = ""; ;) {
    const request = { signal: AbortSignal.timeout(30_000) };
    const changes = await ask(apiPath("/studio/changes", { since: version }), request).catch(disconnect);
    if (changes) {
      const isNew = changes.version !== version || changes.files !== store.files;
      version = changes.version;
      if (isNew || !store.connected || store.closed) apply(changes);
    }
    await new Promise((resolve) => setTimeout(resolve, changes ? 400 : 2000));
    if (document.hidden)
      await new Promise((resolve) => document.addEventListener("visibilitychange", resolve, { once: true }));
  }
}

function disconnect(error) {
  const isClosed = error instanceof Closed;
  if (!store.connected && !isClosed) return;
  store.connected = false;
  store.closed ||= isClosed;
  notify();
}

function apply(changes) {
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
  notify();
}
