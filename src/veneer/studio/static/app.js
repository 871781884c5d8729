// The shell: what stands beside every page, and which page is shown.
import { html, render, useEffect, useState } from "/static/preact.js";
import { connect, link, number, useStore } from "/static/lib.js";
import { Run, Runs } from "/static/runs.js";
import { Compare, Sweeps } from "/static/compare.js";
import { FilePage, Files } from "/static/data.js";
import { NewJob, Queue } from "/static/jobs.js";
import { Report, Reports } from "/static/report.js";
import { Chat } from "/static/chat.js";

const PAGES = [["runs", "Runs"], ["queue", "Queue"], ["new", "New job"], ["data", "Data"], ["sweeps", "Sweeps"], ["report", "Evaluation"], ["chat", "Chat"]];

function place() {
  const [path, query = ""] = location.hash.replace(/^#\/?/, "").split("?");
  const [page = "runs", ...rest] = path.split("/");
  let name = rest.join("/");
  try { name = decodeURIComponent(name); } catch { name = ""; }
  return { page: page || "runs", name, query: Object.fromEntries(new URLSearchParams(query)) };
}

function names(text) {
  try { const found = JSON.parse(text || "[]"); return Array.isArray(found) ? found.filter((one) => typeof one === "string") : []; } catch { return []; }
}

function Page({ at }) {
  switch (at.page) {
    case "run": return html`<${Run} key=${at.name} name=${at.name} />`;
    case "compare": return html`<${Compare} names=${names(at.query.runs)} />`;
    case "data": return at.name ? html`<${FilePage} key=${at.name} id=${at.name} query=${at.query} />` : html`<${Files} />`;
    case "new": return html`<${NewJob} query=${at.query} />`;
    case "queue": return html`<${Queue} />`;
    case "report": return at.name ? html`<${Report} key=${at.name} name=${at.name} />` : html`<${Reports} />`;
    case "chat": return html`<${Chat} query=${at.query} />`;
    case "sweeps": return html`<${Sweeps} />`;
    default: return html`<${Runs} />`;
  }
}

function App() {
  const [at, go] = useState(place());
  const { runs, jobs, connected, closed } = useStore();
  useEffect(() => {
    const moved = () => { go(place()); scrollTo(0, 0); };
    addEventListener("hashchange", moved);
    return () => removeEventListener("hashchange", moved);
  }, []);
  const current = { run: "runs", compare: "runs" }[at.page] || at.page;
  useEffect(() => { document.title = `${(PAGES.find((one) => one[0] === current) || ["", "Runs"])[1]} · veneer studio`; }, [current]);
  const counts = { runs: runs.size, queue: [...jobs.values()].filter((job) => ["queued", "running", "validating_files"].includes(job.veneer.status)).length };
  return html`<div class="shell"><nav class="side" aria-label="Pages"><div class="rail"><div class="brand"><img src="/static/icon.svg" alt="" />veneer studio</div>
      ${PAGES.map(([page, title]) => html`<a key=${page} class="nav" href=${link(page)} aria-current=${current === page ? "page" : undefined}>${title}${counts[page] ? html`<span class="count">${number(counts[page])}</span>` : null}</a>`)}
      <div class="foot" role="status"><span class=${`dot ${connected ? "" : "off"}`} aria-hidden="true"></span>${connected ? "live" : "connecting …"}</div></div></nav>
    <main>${closed && html`<p class="banner" role="alert">The studio was started again and asks who you are: open the new link that it printed.</p>`}<${Page} at=${at} /></main></div>`;
}

connect();
const host = document.getElementById("app");
host.textContent = "";
render(html`<${App} />`, host);
