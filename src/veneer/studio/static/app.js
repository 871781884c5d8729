// The shell: the navigation beside every page, and the choice of the page that is shown.
import { html, render, useEffect, useLayoutEffect, useRef, useState } from "/static/library/preact.js";
import { Chat } from "/static/chat/chat.js";
import { Compare } from "/static/runs/compare.js";
import { ExportPage } from "/static/results/export.js";
import { Exports } from "/static/results/exports.js";
import { link, number } from "/static/common/figures.js";
import { FilePage } from "/static/data/file.js";
import { Files } from "/static/data/files.js";
import { NewJob } from "/static/jobs/new_job.js";
import { Banner, Head } from "/static/common/parts.js";
import { Queue } from "/static/jobs/queue.js";
import { Evaluation, Report } from "/static/results/report.js";
import { Reports } from "/static/results/reports.js";
import { Run } from "/static/runs/run.js";
import { Runs } from "/static/runs/runs.js";
import { connect, useStore } from "/static/common/store.js";
import { Sweeps } from "/static/runs/sweeps.js";
import { TaskState } from "/static/results/tasks.js";

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
const UNDER_WAY = ["queued", "running", "validating_files"];

// The address of the page that is shown, from the part after `#`: /page/name?query.
function addressed() {
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

// The names in a JSON list.
function namesIn(text) {
  try {
    const value = JSON.parse(text || "[]");
    return Array.isArray(value) ? value.filter((name) => typeof name === "string") : [];
  } catch {
    return [];
  }
}

function Page({ address: { page, name, query } }) {
  switch (page) {
    case "run":
      return html`<${Run} key=${name} name=${name} />`;
    case "compare":
      return html`<${Compare} names=${namesIn(query.runs)} />`;
    case "data":
      return name ? html`<${FilePage} key=${name} id=${name} query=${query} />` : html`<${Files} />`;
    case "new":
      return html`<${NewJob} key=${JSON.stringify(query)} query=${query} />`;
    case "queue":
      return html`<${Queue} />`;
    case "report":
      return name ? html`<${Report} key=${name} name=${name} />` : html`<${Reports} run=${query.run} />`;
    case "export":
      return html`<${Exports} key=${query.run} run=${query.run} />`;
    case "task":
      return html`<${Task} key=${name} id=${name} />`;
    case "chat":
      return html`<${Chat} key=${query.model} query=${query} />`;
    case "sweeps":
      return html`<${Sweeps} />`;
    default:
      return html`<${Runs} />`;
  }
}

// An evaluation or an export: its state, and once it has succeeded, its result.
function Task({ id }) {
  const { jobs, connected } = useStore();
  const task = jobs.get(id);
  if (!task)
    return html`<${Head}
      title=${id}
      about=${connected ? "This evaluation or export does not exist, or was deleted." : "connecting …"}
    />`;
  if (task.veneer.status !== "succeeded") return html`<${TaskState} task=${task} />`;
  return task.veneer.kind === "export" ? html`<${ExportPage} task=${task} />` : html`<${Evaluation} task=${task} />`;
}

// The page of the navigation that an address belongs to.
function currentPage({ page, name }, jobs) {
  if (page === "run" || page === "compare") return "runs";
  if (page !== "task") return page;
  const task = jobs.get(name);
  return task && task.veneer.kind === "export" ? "export" : "report";
}

function Navigation({ address }) {
  const { runs, jobs, connected } = useStore();
  const current = currentPage(address, jobs);
  const counts = {
    runs: runs.size,
    queue: [...jobs.values()].filter((job) => UNDER_WAY.includes(job.veneer.status)).length,
  };
  const item = ([page, title]) =>
    html`<a key=${page} class="nav" href=${link(page)} aria-current=${current === page ? "page" : undefined}
      >${title}${counts[page] ? html`<span class="count">${number(counts[page])}</span>` : null}</a
    >`;
  return html`<nav class="side" aria-label="Pages">
    <div class="rail">
      <div class="brand"><img src="/static/icon.svg" alt="" />veneer studio</div>
      ${PAGES.map(item)}
      <div class="foot" role="status">
        <span class=${`dot ${connected ? "" : "off"}`} aria-hidden="true"></span>${connected ? "live" : "connecting …"}
      </div>
    </div>
  </nav>`;
}

const CLOSED = "The studio was restarted and does not know your browser: open the new link that it printed.";

function App() {
  const [address, setAddress] = useState(addressed);
  const content = useRef(null);
  const first = useRef(address);
  const { closed } = useStore();
  useEffect(() => {
    const moved = () => setAddress(addressed());
    addEventListener("hashchange", moved);
    return () => removeEventListener("hashchange", moved);
  }, []);
  // A new page is shown from its top, once it has its title. The first page stays where the browser opened it.
  useLayoutEffect(() => {
    if (address === first.current) return;
    scrollTo(0, 0);
    content.current.focus();
  }, [address]);
  return html`<div class="shell">
    <button class="btn skip" onClick=${() => content.current.focus()}>To the page's content</button>
    <${Navigation} address=${address} />
    <main ref=${content} tabindex="-1">
      ${closed && html`<${Banner} text=${CLOSED} />`}<${Page} address=${address} />
    </main>
  </div>`;
}

connect();
const host = document.getElementById("app");
host.textContent = "";
render(html`<${App} />`, host);
