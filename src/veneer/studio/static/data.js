// Files of rows: upload, what the lint found, and the mask of any row.
import { html, useEffect, useState } from "/static/preact.js";
import { Facts, Fault, Head, Pill, SortTable, Sure, apiPath, ask, counted, link, moment, number, send, size, useAsked, useStore } from "/static/lib.js";

export function useFiles() {
  // The stream tells of files that come and go, in other windows too.
  const [files, set] = useState(null), [again, refresh] = useState(0), { files: stamp } = useStore();
  useEffect(() => { let left = false; ask("/v1/files").then((found) => left || set(found.data), () => {}); return () => { left = true; }; }, [again, stamp]);
  useEffect(() => { if (files && files.some((file) => file.status === "uploaded")) { const wait = setTimeout(() => refresh(again + 1), 500); return () => clearTimeout(wait); } return () => {}; }, [files]);
  return [files, () => refresh(again + 1)];
}

export async function upload(file) {
  const form = new FormData();
  form.append("purpose", "fine-tune");
  form.append("file", file);
  return ask("/v1/files", { method: "POST", body: form });
}

export function Upload({ onDone, id = "file" }) {
  const [over, setOver] = useState(false), [error, fail] = useState(null), [busy, work] = useState(false);
  const take = async (files) => { work(true); fail(null); try { for (const file of files) await upload(file).then(onDone); } catch (problem) { fail(problem); } work(false); };
  return html`<div class=${`drop ${over ? "over" : ""}`} onDragOver=${(event) => { event.preventDefault(); setOver(true); }} onDragLeave=${() => setOver(false)} onDrop=${(event) => { event.preventDefault(); setOver(false); take([...event.dataTransfer.files]); }}>
    <p>${busy ? "Uploading …" : "Drop a file of rows here, or"} <label class="btn small">choose one<input id=${id} type="file" accept=".jsonl,.json,.csv,.parquet" onChange=${(event) => take([...event.target.files])} /></label></p><p class="hint">JSONL, JSON, CSV or Parquet with messages, prompt and completion, chosen and rejected, or text. It stays on this machine.</p>${error && html`<p class="bad" role="alert">${error.message}</p>`}</div>`;
}

// A job of the rows; those without answers are for reinforcement.
const trainOn = (file) => link("new", "", { file: file.id, ...(file.veneer.asks ? { objective: "grpo" } : {}) });

export function Files() {
  const [files, refresh] = useFiles(), [error, fail] = useState(null);
  const remove = (file) => ask(`/v1/files/${file.id}`, { method: "DELETE" }).then(() => { fail(null); refresh(); }, fail);
  const columns = [["filename", "File", (file) => html`<a class="name" href=${link("data", file.id)}>${file.filename}</a>`, (file) => file.filename, "lead"], ["status", "State", (file) => html`<${Pill} state=${file.status} text=${{ uploaded: "checking", processed: "ready", error: "cannot be used" }[file.status]} />`, (file) => file.status], ["details", "What the check found", (file) => file.status_details || "–", false, "wrap"], ["bytes", "Size", (file) => size(file.bytes), (file) => file.bytes, "num"], ["created_at", "Uploaded", (file) => moment(file.created_at), (file) => file.created_at, "num"], ["use", "", (file) => html`${file.status !== "error" && html`<a class="btn small" href=${trainOn(file)}>Train on it</a>`} <${Sure} text="Delete" about=${`delete ${file.filename}`} onClick=${() => remove(file)} />`, false]];
  return html`<${Head} title="Data" about="Every row is checked as it will be trained" /><${Fault} error=${error} /><div class="stack"><${Upload} onDone=${refresh} /><div class="card flush">${files && files.length ? html`<${SortTable} caption="Files" columns=${columns} rows=${files} keyOf=${(file) => file.id} first=${{ key: "created_at", down: true }} />` : html`<p class="empty">${files ? "No file was uploaded yet." : "Loading …"}</p>`}</div></div>`;
}

// Any row of a file by its number, with all that is known of how it trains.
function OneRow({ id, model }) {
  const [wanted, want] = useState(""), [found, set] = useState(null), [error, fail] = useState(null);
  const show = async (event) => {
    event.preventDefault();
    try { set((await send("/v1/fine_tuning/jobs/preview", { model, training_file: id, first: Number(wanted) - 1, count: 1 })).rows); fail(null); } catch (problem) { set(null); fail(problem); }
  };
  return html`<section class="card"><header><h2>Any row</h2><form class="tools" onSubmit=${show}><label>row <input type="number" min="1" required value=${wanted} onInput=${(event) => want(event.target.value)} /></label><button class="btn small" disabled=${!model}>Show</button></form></header><${Fault} error=${error} />${found && (found.length ? html`<div class="rows">${found.map((row) => html`<${PreviewTokens} key=${row.answer} row=${row} />`)}</div>` : html`<p class="quiet">The file has no such row.</p>`)}${!found && !error && html`<p class="quiet">The list below holds rows with findings and every so many-th of the others; here is every one.</p>`}</section>`;
}

export function FilePage({ id, query }) {
  const { value: options } = useAsked("/studio/options");
  const [model, setModel] = useState(query.model || ""), [rule, setRule] = useState(null), [words, setWords] = useState(""), [at, go] = useState(0);
  useEffect(() => { if (options && !model && options.models.length) setModel(options.models[0]); }, [options]);
  const { value: file } = useAsked(`/v1/files/${id}`);
  const { value: found, error } = useAsked(options && (model || !options.models.length) ? apiPath("/studio/lint", { file: id, ...(model ? { model } : {}) }) : null);
  const text = (row) => row.ids ? row.ids.map((token, place) => (row.odd || {})[place] ?? found.texts[token]).join("") : row.strings.map((one) => one[1]).join(" ");
  const rows = found ? found.rows.filter((row) => (rule === null || row.findings.some((one) => one[0] === rule)) && (!words || ((row.ids || row.strings) && text(row).toLowerCase().includes(words.toLowerCase())))) : [];
  return html`<${Head} title=${file ? file.filename : "File"} about="What the check found, and each row as it trains: marked tokens count in the loss"><label class="tools">model <select value=${model} onChange=${(event) => setModel(event.target.value)}>${((options || {}).models || []).map((name) => html`<option key=${name} value=${name} selected=${name === model}>${name}</option>`)}</select></label>${file && file.status !== "error" && html`<a class="btn main" href=${trainOn(file)}>Train on it</a>`}</${Head}><${Fault} error=${error} />${file && file.veneer.asks && html`<p class="banner note">These rows ask without an answer. They are for reinforcement (GRPO), where answers are sampled, and are checked as such a run reads them.</p>`}
    ${!found ? html`<p class="card empty">${error ? "The file cannot be shown." : "Checking every row …"}</p>` : html`<div class="stack"><div class="card"><${Facts} facts=${[["rows", number(found.checked)], ["without a finding", number(found.clean)], ...(found.lengths ? [[`${found.lengths.unit || "tokens"} a row`, number(found.lengths.median ?? found.lengths.mean), `longest ${number(found.lengths.longest ?? found.lengths.max)}`]] : [])]} /></div>
      ${found.rules.length > 0 && html`<section class="card flush"><header><h2>Findings</h2>${rule !== null && html`<button class="btn small" onClick=${() => setRule(null)}>Show all rows</button>`}</header><${SortTable} caption="Findings" keyOf=${(one) => one.name} rows=${found.rules} first=${{ key: "severity", down: false }} columns=${[["severity", "Severity", (one) => html`<${Pill} state=${one.severity} />`, (one) => ["error", "warning", "info"].indexOf(one.severity)], ["name", "Rule", (one) => html`<button class="btn small" aria-pressed=${rule === found.rules.indexOf(one)} onClick=${() => { setRule(found.rules.indexOf(one)); go(0); }}>${one.name}</button>`, (one) => one.name], ["summary", "What it means, and what helps", (one) => html`${one.summary}. <span class="quiet">${one.remedy}</span>`, false, "wrap"], ["count", "Rows", (one) => number(one.count), (one) => one.count, "num"]]} /></section>`}
      <${OneRow} id=${id} model=${model} />
      <section class="card"><header><h2>${counted(rows.length, "row")}</h2><input type="search" placeholder="Search in rows" aria-label="Search in rows" value=${words} onInput=${(event) => { setWords(event.target.value); go(0); }} /><span class="tools"><button class="btn small" disabled=${at === 0} onClick=${() => go(at - 10)}>Back</button><span class="quiet">${rows.length ? `${at + 1}–${Math.min(at + 10, rows.length)}` : "0"}</span><button class="btn small" disabled=${at + 10 >= rows.length} onClick=${() => go(at + 10)}>On</button></span></header><div class="rows">${rows.slice(at, at + 10).map((row) => html`<article key=${row.where}><header><b>${row.where}</b>${row.ids && html`<span>${counted(row.length, "token")}, ${number(row.targets)} trained</span>`}${row.findings.map(([place, detail]) => html`<span class=${found.rules[place].severity === "error" ? "bad" : "warn"}>${found.rules[place].name}${detail ? `: ${detail}` : ""}</span>`)}</header><${Tokens} row=${row} texts=${found.texts} fields=${found.fields} /></article>`)}</div></section></div>`}`;
}

// A character that is several tokens stands at the first of them.
const CONTINUED = "·";

function Tokens({ row, texts, fields }) {
  if (!row.ids) return html`<div class="tokens">${(row.strings || []).map((one) => `${one[0] ? `${one[0]}: ` : ""}${one[1]}`).join("\n")}</div>`;
  const parts = [];
  let at = 0;
  for (const [end, trained, field] of row.spans) {
    for (; at < end; at += 1) parts.push(html`<span key=${at} class=${trained ? "t" : ""} title=${`token ${row.ids[at]} · ${fields[field]} · ${trained ? "trained" : "not trained"}`}>${((row.odd || {})[at] ?? texts[row.ids[at]]) || CONTINUED}</span>`);
  }
  return html`<div class="tokens">${parts}${row.length > row.ids.length ? " …" : ""}</div>`;
}

export function PreviewTokens({ row }) {
  return html`<article><header><b>${row.where}${row.answer ? `, ${row.answer}` : ""}</b>${row.problem ? html`<span class="bad">${row.problem}</span>` : html`<span>${counted(row.length, "token")}, ${number(row.tokens.filter((token) => token.trained).length)} trained</span>`}</header><div class="tokens">${row.tokens.map((token, place) => html`<span key=${place} class=${token.trained ? "t" : ""} title=${`token ${token.id}`}>${token.text || CONTINUED}</span>`)}</div></article>`;
}
