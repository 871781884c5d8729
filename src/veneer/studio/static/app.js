// The shell: the navigation beside every page, and the choice of the page that is shown.
import { html, render, useEffect, useLayoutEffect, useRef, useState } from "/static/preact.js";
import { connect, useStore } from "/static/lib.js";
import { link, number } from "/static/figures.js";
import { Banner, Head } from "/static/parts.js";
import { Run, Runs } from "/static/runs.js";
import { Compare, Sweeps } from "/static/compare.js";
import { FilePage, Files } from "/static/data.js";
import { NewJob, Queue } from "/static/jobs.js";
import { Evaluation, Report, Reports } from "/static/report.js";
import { Export, ExportPage, TaskState } from "/static/results.js";
import { Chat } from "/static/chat.js";

const PAGES = [
  ["runs", "Runs"],
  ["queue", "Queue"],
  ["new", "New job"],
  ["data", "Data"],
  ["sweeps", "Sweeps"],
  ["report", "Evaluation"],
  ["export", "Export"],
  ["chat", "Chat"],
];

function place() {
  const [path, query = ""] = location.hash.replace(/^#\/?/, "").split("?");
  const [page = "runs", ...rest] = path.split("/");
  let name = rest.join("/");
  try {
    name = decodeURIComponent(name);
  } catch {
    name = "";
  }
  return { page: page || "runs", name, query: Object.fromEntries(new URLSearchParams(query)) };
}

function names(text) {
  try {
    const found = JSON.parse(text || "[]");
    return Array.isArray(found) ? found.filter((one) => typeof one === "string") : [];
  } catch {
    return [];
  }
}

function Page({ at }) {
  switch (at.page) {
    case "run":
      return html`<${Run} key=${at.name} name=${at.name} />`;
    case "compare":
      return html`<${Compare} names=${names(at.query.runs)} />`;
    case "data":
      return at.name ? html`<${FilePage} key=${at.name} id=${at.name} query=${at.query} />` : html`<${Files} />`;
    case "new":
      return html`<${NewJob} key=${JSON.stringify(at.query)} query=${at.query} />`;
    case "queue":
      return html`<${Queue} />`;
    case "report":
      return at.name ? html`<${Report} key=${at.name} name=${at.name} />` : html`<${Reports} run=${at.query.run} />`;
    case "export":
      return html`<${Export} key=${at.query.run} run=${at.query.run} />`;
    case "task":
      return html`<${Task} key=${at.name} id=${at.name} />`;
    case "chat":
      return html`<${Chat} key=${at.query.model} query=${at.query} />`;
    case "sweeps":
      return html`<${Sweeps} />`;
    default:
      return html`<${Runs} />`;
  }
}

// An evaluation or an export: its state, and once it has succeeded, its result.
function Task({ id }) {
  const { jobs, connected } = useStore(),
    task = jobs.get(id);
  if (!task)
    return html`<${Head}
      title=${id}
      about=${connected ? "This evaluation or export does not exist, or was deleted." : "connecting …"}
    />`;
  if (task.veneer.status !== "succeeded") return html`<${TaskState} task=${task} />`;
  return task.veneer.kind === "export" ? html`<${ExportPage} task=${task} />` : html`<${Evaluation} task=${task} />`;
}

function App() {
  const [at, go] = useState(place),
    content = useRef(null),
    opened = useRef(at);
  const { runs, jobs, connected, closed } = useStore();
  useEffect(() => {
    const moved = () => go(place());
    addEventListener("hashchange", moved);
    return () => removeEventListener("hashchange", moved);
  }, []);
  // A new page is shown from its top, once it has its title. The first page stays where the browser opened it.
  useLayoutEffect(() => {
    if (at !== opened.current) {
      scrollTo(0, 0);
      content.current.focus();
    }
  }, [at]);
  const current =
    {
      run: "runs",
      compare: "runs",
      task: (jobs.get(at.name) || { veneer: {} }).veneer.kind === "export" ? "export" : "report",
    }[at.page] || at.page;
  const counts = {
    runs: runs.size,
    queue: [...jobs.values()].filter((job) => ["queued", "running", "validating_files"].includes(job.veneer.status))
      .length,
  };
  return html`<div class="shell">
    <button class="btn skip" onClick=${() => content.current.focus()}>To the page's content</button>
    <nav class="side" aria-label="Pages">
      <div class="rail">
        <div class="brand"><img src="/static/icon.svg" alt="" />veneer studio</div>
        ${PAGES.map(([page, title]) => html`<a key=${page} class="nav" href=${link(page)} aria-current=${current === page ? "page" : undefined}>${title}${counts[page] ? html`<span class="count">${number(counts[page])}</span>` : null}</a>`)}
        <div class="foot" role="status">
          <span class=${`dot ${connected ? "" : "off"}`} aria-hidden="true"></span
          >${connected ? "live" : "connecting …"}
        </div>
      </div>
    </nav>
    <main ref=${content} tabindex="-1">
      ${closed && html`<${Banner}>The studio was restarted and does not know your browser: open the new link that it printed.</${Banner}>`}<${Page}
        at=${at}
      />
    </main>
  </div>`;
}

connect();
const host = document.getElementById("app");
host.textContent = "";
render(html`<${App} />`, host);
