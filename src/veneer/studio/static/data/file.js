// The page of one file: the findings of its check, and its rows as they are trained.
import { html, useEffect, useRef, useState } from "/static/library/preact.js";
import { counted, number } from "/static/common/figures.js";
import { TrainOn, useFile } from "/static/data/files.js";
import { useAnswer, useOptions } from "/static/common/hooks.js";
import { Button, Facts, Fault, Head, Names, Pill } from "/static/common/parts.js";
import { apiPath, send } from "/static/common/requests.js";
import { SortTable } from "/static/common/table.js";
import { PreviewTokens, RowTokens, textOf } from "/static/data/tokens.js";

const PAGE = 10;

// The page of a file. `query` has the name of the model that it begins with.
export function FilePage({ id, query }) {
  const { value: options } = useOptions();
  const [model, setModel] = useState(query.model || "");
  const [choice, setChoice] = useState({ rule: null, words: "", first: 0 });
  useEffect(() => {
    if (options && !model && options.models.length) setModel(options.models[0]);
  }, [options]);
  const [file, fileError] = useFile(id);
  // Whether the rows have answers is known after the check.
  const isReady = file && file.status !== "uploaded" && options && (model || !options.models.length);
  const path = apiPath("/studio/lint", { file: id, ...(model ? { model } : {}) });
  const { value: lint, error } = useAnswer(isReady ? path : null);
  const tools = html`<label class="tools"
      >model${" "}<select value=${model} onChange=${(event) => setModel(event.target.value)}>
        <${Names} names=${(options || {}).models || []} value=${model} /></select></label
    >${file && !fileError && html`<${TrainOn} file=${file} kind="main" />`}`;
  const message = error || fileError ? "The file cannot be shown." : "Checking every row …";
  return html`<${Head}
      title=${file ? file.filename : "File"}
      about="The findings of the check, and each row as it is trained: marked tokens count in the loss"
      tools=${tools}
    /><${Fault} error=${fileError || error} />${
      file &&
      file.veneer.asks &&
      html`<p class="banner note">
        These rows have no answers. They are for reinforcement (GRPO), which samples answers, and were checked for that.
      </p>`
    }
    ${
      lint
        ? html`<${Checked} ...${{ id, model, lint, choice, setChoice }} />`
        : html`<p class="card empty">${message}</p>`
    }`;
}

// The results of the check (`lint`). `choice` has the rows that are shown: those of a rule, with some words, from the
// `first` on.
function Checked({ id, model, lint, choice, setChoice }) {
  const { rule, words, first } = choice;
  const change = (values) => setChoice((old) => ({ ...old, ...values }));
  const hasRule = (row) => rule === null || row.findings.some(([place]) => place === rule);
  const hasWords = (row) =>
    !words || ((row.ids || row.strings) && textOf(row, lint.texts).toLowerCase().includes(words.toLowerCase()));
  const chooseRule = (place) => change(place === null ? { rule: null } : { rule: place, first: 0 });
  return html`<div class="stack">
    <${LintFacts} lint=${lint} />
    ${lint.rules.length > 0 && html`<${Findings} rules=${lint.rules} chosen=${rule} choose=${chooseRule} />`}
    <${AnyRow} id=${id} model=${model} />
    <${Rows}
      lint=${lint}
      rows=${lint.rows.filter((row) => hasRule(row) && hasWords(row))}
      first=${first}
      setFirst=${(place) => change({ first: place })}
      words=${words}
      search=${(text) => change({ words: text, first: 0 })}
    />
  </div>`;
}

function LintFacts({ lint: { checked, clean, lengths } }) {
  const facts = [
    ["rows", number(checked)],
    ["without a finding", number(clean)],
    lengths
      ? [
          `${lengths.unit || "tokens"} a row`,
          number(lengths.median ?? lengths.mean),
          `longest ${number(lengths.longest ?? lengths.max)}`,
        ]
      : null,
  ];
  return html`<div class="card"><${Facts} facts=${facts} /></div>`;
}

const SEVERITIES = ["error", "warning", "info"];

// The rules that found something. `chosen` is the place of the rule whose rows are shown.
function Findings({ rules, chosen, choose }) {
  const button = (rule) => {
    const place = rules.indexOf(rule);
    return html`<button class="btn small" aria-pressed=${chosen === place} onClick=${() => choose(place)}>
      ${rule.name}
    </button>`;
  };
  const columns = [
    {
      key: "severity",
      title: "Severity",
      cell: ({ severity }) => html`<${Pill} state=${severity} />`,
      sort: ({ severity }) => SEVERITIES.indexOf(severity),
      csv: ({ severity }) => severity,
    },
    { key: "name", title: "Rule", cell: button, sort: ({ name }) => name },
    {
      key: "summary",
      title: "What it means, and what helps",
      kind: "wrap",
      cell: ({ summary, remedy }) => html`${summary}. <span class="quiet">${remedy}</span>`,
    },
    { key: "count", title: "Rows", kind: "num", cell: ({ count }) => number(count), sort: ({ count }) => count },
  ];
  return html`<section class="card flush">
    <header>
      <h2>Findings</h2>
      <${Button} text="Show all rows" off=${chosen === null} onClick=${() => choose(null)} />
    </header>
    <${SortTable}
      caption="Findings"
      keyOf=${({ name }) => name}
      rows=${rules}
      first=${{ key: "severity", down: false }}
      columns=${columns}
    />
  </section>`;
}

// The rows with findings and a sample of the others, a few at a time.
function Rows({ lint, rows, first, setFirst, words, search }) {
  const end = Math.min(first + PAGE, rows.length);
  return html`<section class="card">
    <header>
      <h2>${counted(rows.length, "row")}</h2>
      <input
        type="search"
        placeholder="Search in rows"
        aria-label="Search in rows"
        value=${words}
        onInput=${(event) => search(event.target.value)}
      /><span class="tools"
        ><${Button} text="Back" off=${first === 0} onClick=${() => setFirst(first - PAGE)} /><span class="quiet"
          >${rows.length ? `${first + 1}–${end}` : "0"}</span
        ><${Button} text="Next" off=${first + PAGE >= rows.length} onClick=${() => setFirst(first + PAGE)}
      /></span>
    </header>
    <div class="rows">
      ${rows.slice(first, end).map((row) => html`<${Row} key=${row.where} row=${row} lint=${lint} />`)}
    </div>
  </section>`;
}

function Row({ row, lint }) {
  const finding = ([place, detail]) => {
    const { severity, name } = lint.rules[place];
    return html`<span class=${severity === "error" ? "bad" : "warn"}>${name}${detail ? `: ${detail}` : ""}</span>`;
  };
  return html`<article>
    <header>
      <b>${row.where}</b>${
        row.ids && html`<span>${counted(row.length, "token")}, ${number(row.targets)} trained</span>`
      }${row.findings.map(finding)}
    </header>
    <${RowTokens} row=${row} texts=${lint.texts} fields=${lint.fields} />
  </article>`;
}

// Any row of a file by its number, with its tokens and mask.
function AnyRow({ id, model }) {
  const [wanted, setWanted] = useState("");
  const [rows, setRows] = useState(null);
  const [error, setError] = useState(null);
  const newest = useRef(0);
  const show = async (event) => {
    event.preventDefault();
    newest.current += 1;
    const asked = newest.current;
    // A later request may be answered earlier.
    const answered = (found, problem) => {
      if (asked !== newest.current) return;
      setRows(found);
      setError(problem);
    };
    const request = { model, training_file: id, first: Number(wanted) - 1, count: 1 };
    await send("/v1/fine_tuning/jobs/preview", request).then(
      (answer) => answered(answer.rows, null),
      (problem) => answered(null, problem),
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
            onInput=${(event) => setWanted(event.target.value)} /></label
        ><button class="btn small" disabled=${!model}>Show</button>
      </form>
    </header>
    <${Fault} error=${error} />${!error && html`<${FoundRows} rows=${rows} />`}
  </section>`;
}

function FoundRows({ rows }) {
  if (!rows)
    return html`<p class="quiet">
      The list below has the rows with findings and a sample of the others; here you can see every row.
    </p>`;
  if (!rows.length) return html`<p class="quiet">The file has no such row.</p>`;
  return html`<div class="rows">${rows.map((row) => html`<${PreviewTokens} key=${row.answer} row=${row} />`)}</div>`;
}
