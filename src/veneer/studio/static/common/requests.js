// Requests to the studio: their errors, and the keys by which a repeated request does nothing twice.

// Refusals are requested as ordinary answers: Chromium reports every status of 400 and above as an error of the page.
const OWN = { "x-refusals": "answered" };
const isRefused = (answer) => !answer.ok || answer.headers.has("x-refused");

// The studio, or a proxy in front of it, cannot answer now but may later. The message of the browser is not used: it
// differs between browsers, and names no cause.
export class Away extends Error {
  constructor(message = "The studio does not answer. If it was stopped, start it again.") {
    super(message);
  }
}

// The studio does not know this browser. The user may open the new link in another window, so the request is repeated
// later, as if the studio did not answer.
export class Closed extends Away {}

// Throws an error of `fetch` again. A connection that broke becomes `Away`.
export const rethrow = (error) => {
  throw error.name === "TypeError" ? new Away() : error;
};

const isJson = (answer) => (answer.headers.get("content-type") || "").includes("json");
const contentOf = (answer) => (isJson(answer) ? answer.json() : answer.text()).catch(rethrow);

// An answer that is not a refusal. The caller reads its content.
export async function reach(path, options = {}) {
  const headers = { ...options.headers, ...OWN };
  const answer = await fetch(path, { ...options, headers }).catch(rethrow);
  if (!isRefused(answer)) return answer;
  const content = await contentOf(answer);
  const message = content && content.error ? content.error.message : `the studio answers ${answer.status}`;
  if (answer.status === 401) throw new Closed(message);
  throw answer.status >= 500 ? new Away(message) : new Error(message);
}

// The content of an answer.
export const ask = async (path, options) => contentOf(await reach(path, options));

// An address of the studio with the values of its query.
export const apiPath = (path, query) => `${path}?${new URLSearchParams(query)}`;

// Sends a value as JSON, and returns the content of the answer.
export const send = (path, body, { method = "POST", headers = {}, signal = undefined } = {}) =>
  ask(path, {
    method,
    signal,
    headers: { ...headers, "content-type": "application/json" },
    body: JSON.stringify(body),
  });

const keys = new Map();

// Calls `request` with the header of a key. A request whose answer was lost has the same key when it is sent again: the
// studio recognises the key, and creates nothing twice. `what` identifies the request.
export async function keyed(what, request) {
  if (!keys.has(what)) keys.set(what, [...crypto.getRandomValues(new Uint32Array(4))].join("-"));
  try {
    const answer = await request({ "idempotency-key": keys.get(what) });
    keys.delete(what);
    return answer;
  } catch (error) {
    if (!(error instanceof Away)) keys.delete(what);
    throw error;
  }
}

// Creates something at the studio, once even if the request is repeated.
export const create = (path, body) => keyed(path + JSON.stringify(body), (headers) => send(path, body, { headers }));
