// Files of rows: their upload, the findings of the lint, and the mask of any row.
import { html, useEffect, useRef, useState } from "/static/preact.js";
import { apiPath, ask, keyed, send, useAsked, useOptions, useStore } from "/static/lib.js";
import { counted, link, moment, number, size } from "/static/figures.js";
import { Button, Facts, Fault, Head, Pill, SortTable, Sure } from "/static/parts.js";

// The files, kept up to date: they are asked for again when the studio reports a change (from any window), and regularly while
// one of them is being checked.
function useStated(path, listed) {
  const [again, set] = useState(0),
    { files: stamp } = useStore(),
    refresh = () => set((count) => count + 1);
  const { value, error } = useAsked(path, `${stamp} ${again}`);
  useEffect(() => {
    if (!value || !listed(value).some((file) => file.status === "uploaded")) return () => {};
    const wait = setTimeout(refresh, 500);
    return () => clearTimeout(wait);
  }, [value, error]);
  return [value && listed(value), refresh, error];
}

export const useFiles = () => useStated("/v1/files", (found) => found.data);

export async function upload(file) {
  const form = new FormData();
  form.append("purpose", "fine-tune");
  form.append("file", file);
  return keyed(`${file.name} ${file.size} ${file.lastModified}`, (headers) =>
    ask("/v1/files", { method: "POST", headers, body: form }),
  );
}

export function Upload({ onDone, id = "file" }) {
  const [over, setOver] = useState(false),
    [error, fail] = useState(null),
    [busy, work] = useState(false);
  // A refused file does not stop the others.
  const take = async (files) => {
    const faults = [];
    work(true);
    fail(null);
    for (const file of files)
      await upload(file).then(onDone, (problem) => faults.push(`${file.name}: ${problem.message}`));
    if (faults.length) fail(new Error(faults.join("\n")));
    work(false);
  };
  // The input is cleared, since browsers report no change if the same file is chosen again, perhaps after it was corrected.
  const chosen = (event) => {
    take([...event.target.files]);
    event.target.value = "";
  };
  return html`<div
    class=${`drop ${over ? "over" : ""}`}
    onDragOver=${(event) => {
      event.preventDefault();
      setOver(true);
    }}
    onDragLeave=${() => setOver(false)}
    onDrop=${(event) => {
      event.preventDefault();
      setOver(false);
      take([...event.dataTransfer.files]);
    }}
  >
    <p>
      ${busy ? "Uploading …" : "Drop a file of rows here, or"}${" "}<label class="btn small"
        >choose one<input id=${id} type="file" accept=".jsonl,.json,.csv,.parquet" onChange=${chosen}
      /></label>
    </p>
    <p class="hint">
      JSONL, JSON, CSV or Parquet with messages, prompt and completion, chosen and rejected, or text. The file stays on
      the studio's machine.
    </p>
    ${error && html`<p class="bad" role="alert">${error.message}</p>`}
  </div>`;
}

// The button for a job with these rows. Rows without answers need reinforcement, which is known after the check.
function TrainOn({ file, kind }) {
  if (file.status === "processed")
    return html`<a
      class=${`btn ${kind}`}
      href=${link("new", "", { file: file.id, ...(file.veneer.asks ? { objective: "grpo" } : {}) })}
      >Train on it</a
    >`;
  return file.status === "uploaded" && html`<button class=${`btn ${kind}`} disabled>Train on it</button>`;
}

export function Files() {
  const [files, refresh, missing] = useFiles(),
    [error, fail] = useState(null);
  // The keyboard focus moves to the next file, or to the page if there is no other file.
  const remove = (file, button) => {
    const row = button.closest("tr, li"),
      beside = row.nextElementSibling || row.previousElementSibling,
      next = (beside && beside.querySelector(".danger")) || document.querySelector("main");
    const done = () => {
      if ([button, document.body].includes(document.activeElement)) next.focus({ preventScroll: true });
      fail(null);
      refresh();
    };
    return ask(`/v1/files/${file.id}`, { method: "DELETE" }).then(done, fail);
  };
  const columns = [
    [
      "filename",
      "File",
      (file) => html`<a class="name" href=${link("data", file.id)}>${file.filename}</a>`,
      (file) => file.filename,
      "lead",
    ],
    [
      "status",
      "State",
      (file) =>
        html`<${Pill}
          state=${file.status}
          text=${{ uploaded: "checking", processed: "ready", error: "cannot be used" }[file.status]}
        />`,
      (file) => file.status,
    ],
    ["details", "What the check found", (file) => file.status_details || "–", false, "wrap"],
    ["bytes", "Size", (file) => size(file.bytes), (file) => file.bytes, "num"],
    ["created_at", "Uploaded", (file) => moment(file.created_at), (file) => file.created_at, "num"],
    [
      "use",
      "",
      (file) =>
        html`<${TrainOn} file=${file} kind="small" />${" "}<${Sure}
            text="Delete"
            about=${`delete ${file.filename}`}
            onClick=${(event) => remove(file, event.currentTarget)}
          />`,
      false,
    ],
  ];
  return html`<${Head} title="Data" about="Every row is checked in the form in which it is trained" /><${Fault}
      error=${error || missing}
    />
    <div class="stack">
      <${Upload} onDone=${refresh} />
      <div class="card flush">
        ${files && files.length ? html`<${SortTable} caption="Files" columns=${columns} rows=${files} keyOf=${(file) => file.id} first=${{ key: "created_at", down: true }} />` : html`<p class="empty">${files ? "No files yet." : missing ? "The files cannot be shown." : "Loading …"}</p>`}
      </div>
    </div>`;
}

// Any row of a file by its number, with its tokens and mask.
function OneRow({ id, model }) {
  const [wanted, want] = useState(""),
    [found, set] = useState(null),
    [error, fail] = useState(null),
    newest = useRef(0);
  const show = async (event) => {
    event.preventDefault();
    const mine = (newest.current += 1),
      told = (rows, problem) => {
        if (mine === newest.current) {
          set(rows);
          fail(problem);
        }
      };
    await send("/v1/fine_tuning/jobs/preview", { model, training_file: id, first: Number(wanted) - 1, count: 1 }).then(
      (answer) => told(answer.rows, null),
      (problem) => told(null, problem),
    );
  };
  return html`<section class="card">
    <header>
      <h2>Any row</h2>
      <form class="tools" onSubmit=${show}>
        <label
          >row${" "}<input
            type="number"
            min="1"
            required
            value=${wanted}
            onInput=${(event) => want(event.target.value)} /></label
        ><button class="btn small" disabled=${!model}>Show</button>
      </form>
    </header>
    <${Fault}
      error=${error}
    />${found && (found.length ? html`<div class="rows">${found.map((row) => html`<${PreviewTokens} key=${row.answer} row=${row} />`)}</div>` : html`<p class="quiet">The file has no such row.</p>`)}${!found && !error && html`<p class="quiet">The list below has the rows with findings and a sample of the others; here you can see every row.</p>`}
  </section>`;
}

export function FilePage({ id, query }) {
  const { value: options } = useOptions();
  const [model, setModel] = useState(query.model || ""),
    [rule, setRule] = useState(null),
    [words, setWords] = useState(""),
    [at, go] = useState(0);
  useEffect(() => {
    if (options && !model && options.models.length) setModel(options.models[0]);
  }, [options]);
  const [stated, , gone] = useStated(`/v1/files/${id}`, (one) => [one]),
    file = stated && stated[0];
  // Whether the rows have answers is known after the check.
  const { value: found, error } = useAsked(
    file && file.status !== "uploaded" && options && (model || !options.models.length)
      ? apiPath("/studio/lint", { file: id, ...(model ? { model } : {}) })
      : null,
  );
  const text = (row) =>
    row.ids
      ? row.ids.map((token, place) => (row.odd || {})[place] ?? found.texts[token]).join("")
      : row.strings.map((one) => one[1]).join(" ");
  const rows = found
    ? found.rows.filter(
        (row) =>
          (rule === null || row.findings.some((one) => one[0] === rule)) &&
          (!words || ((row.ids || row.strings) && text(row).toLowerCase().includes(words.toLowerCase()))),
      )
    : [];
  return html`<${Head} title=${file ? file.filename : "File"} about="The findings of the check, and each row as it is trained: marked tokens count in the loss"><label class="tools">model <select value=${model} onChange=${(event) => setModel(event.target.value)}>${((options || {}).models || []).map((name) => html`<option key=${name} value=${name} selected=${name === model}>${name}</option>`)}</select></label>${file && !gone && html`<${TrainOn} file=${file} kind="main" />`}</${Head}><${Fault} error=${gone || error} />${file && file.veneer.asks && html`<p class="banner note">These rows have no answers. They are for reinforcement (GRPO), which samples answers, and were checked for that.</p>`}
    ${
      !found
        ? html`<p class="card empty">${error || gone ? "The file cannot be shown." : "Checking every row …"}</p>`
        : html`<div class="stack"><div class="card"><${Facts} facts=${[["rows", number(found.checked)], ["without a finding", number(found.clean)], ...(found.lengths ? [[`${found.lengths.unit || "tokens"} a row`, number(found.lengths.median ?? found.lengths.mean), `longest ${number(found.lengths.longest ?? found.lengths.max)}`]] : [])]} /></div>
      ${
        found.rules.length > 0 &&
        html`<section class="card flush"><header><h2>Findings</h2><${Button} off=${rule === null} onClick=${() => setRule(null)}>Show all rows</${Button}></header><${SortTable} caption="Findings" keyOf=${(one) => one.name} rows=${found.rules} first=${{ key: "severity", down: false }} columns=${[
          [
            "severity",
            "Severity",
            (one) => html`<${Pill} state=${one.severity} />`,
            (one) => ["error", "warning", "info"].indexOf(one.severity),
            "",
            (one) => one.severity,
          ],
          [
            "name",
            "Rule",
            (one) =>
              html`<button
                class="btn small"
                aria-pressed=${rule === found.rules.indexOf(one)}
                onClick=${() => {
                  setRule(found.rules.indexOf(one));
                  go(0);
                }}
              >
                ${one.name}
              </button>`,
            (one) => one.name,
          ],
          [
            "summary",
            "What it means, and what helps",
            (one) => html`${one.summary}. <span class="quiet">${one.remedy}</span>`,
            false,
            "wrap",
          ],
          ["count", "Rows", (one) => number(one.count), (one) => one.count, "num"],
        ]} /></section>`
      }
      <${OneRow} id=${id} model=${model} />
      <section class="card"><header><h2>${counted(rows.length, "row")}</h2><input type="search" placeholder="Search in rows" aria-label="Search in rows" value=${words} onInput=${(
        event,
      ) => {
        setWords(event.target.value);
        go(0);
      }} /><span class="tools"><${Button} off=${at === 0} onClick=${() => go(at - 10)}>Back</${Button}><span class="quiet">${rows.length ? `${at + 1}–${Math.min(at + 10, rows.length)}` : "0"}</span><${Button} off=${at + 10 >= rows.length} onClick=${() => go(at + 10)}>On</${Button}></span></header><div class="rows">${rows
        .slice(at, at + 10)
        .map(
          (row) =>
            html`<article key=${row.where}>
              <header>
                <b>${row.where}</b
                >${row.ids && html`<span>${counted(row.length, "token")}, ${number(row.targets)} trained</span>`}${row.findings.map(([place, detail]) => html`<span class=${found.rules[place].severity === "error" ? "bad" : "warn"}>${found.rules[place].name}${detail ? `: ${detail}` : ""}</span>`)}
              </header>
              <${Tokens} row=${row} texts=${found.texts} fields=${found.fields} />
            </article>`,
        )}</div></section></div>`
    }`;
}

// Shown for a token without text of its own: a character of several tokens is shown at the first of them.
const CONTINUED = "·";

function Tokens({ row, texts, fields }) {
  if (!row.ids)
    return html`<div class="tokens">
      ${(row.strings || []).map((one) => `${one[0] ? `${one[0]}: ` : ""}${one[1]}`).join("\n")}
    </div>`;
  const parts = [];
  let at = 0;
  for (const [end, trained, field] of row.spans) {
    for (; at < end; at += 1)
      parts.push(
        html`<span
          key=${at}
          class=${trained ? "t" : ""}
          title=${`token ${row.ids[at]} · ${fields[field]} · ${trained ? "trained" : "not trained"}`}
          >${((row.odd || {})[at] ?? texts[row.ids[at]]) || CONTINUED}</span
        >`,
      );
  }
  return html`<div class="tokens">${parts}${row.length > row.ids.length ? " …" : ""}</div>`;
}

export function PreviewTokens({ row }) {
  return html`<article>
    <header>
      <b>${row.where}${row.answer ? `, ${row.answer}` : ""}</b
      >${row.problem ? html`<span class="bad">${row.problem}</span>` : html`<span>${counted(row.length, "token")}, ${number(row.tokens.filter((token) => token.trained).length)} trained</span>`}
    </header>
    <div class="tokens">
      ${row.tokens.map((token, place) => html`<span key=${place} class=${token.trained ? "t" : ""} title=${`token ${token.id}`}>${token.text || CONTINUED}</span>`)}
    </div>
  </article>`;
}
