// The tables of measures: those of the rows, of other suites, of the gate and of the judge.
function summarise() {
  document.title = at("title").textContent = data.title;
  const parts = [`${counted(report.rows, "row")}.`];
  const primary = report.comparison.find((row) => row.name === report.primary);
  if (primary) {
    const words = {
      better: "The adapter is better",
      worse: "The adapter is worse",
      unsure: "These rows do not say which is better",
    };
    const { name, base, adapter } = primary;
    parts.push(
      `${words[judged(primary)]}, by the primary measure ${name}: ${shown(name, base)} with the base, ` +
        `${shown(name, adapter)} with the adapter (difference ${change(name, primary.difference)}, ` +
        `95 % interval ${interval(primary)}).`,
    );
  }
  if (report.adapters.length > 1)
    parts.push(`The adapter's figures are means over ${report.adapters.length} adapters.`);
  if (report.cluster) parts.push(`Rows with the same ${report.cluster} are one cluster.`);
  at("summary").textContent = parts.join(" ");
  at("warnings").append(...report.warnings.map((text) => element("li", {}, [text])));
}

function compared(rows) {
  return table(
    ["", "base", "adapter", "difference", "95 % interval", "p", "interval by"],
    rows.map(([label, row, note]) => [
      label,
      shown(row.name, row.base),
      shown(row.name, row.adapter),
      marked(change(row.name, row.difference), judged(row)),
      interval(row),
      finite(row.holm) ? `${chance(row.holm)} (Holm)` : finite(row.p) ? chance(row.p) : "–",
      note || row.interval,
    ]),
  );
}

function measures() {
  if (!report.comparison.length) {
    const rows = report.base.map((row) => [
      row.name,
      shown(row.name, row.value),
      `${shown(row.name, row.low)} to ${shown(row.name, row.high)}`,
      row.interval,
    ]);
    reveal("measures", table(["", "value", "95 % interval", "interval by"], rows));
    return;
  }
  const label = (row) => (row.name === report.primary ? element("strong", {}, [`${row.name} (primary)`]) : row.name);
  reveal("measures", compared(report.comparison.map((row) => [label(row), row])), plots(report.comparison));
  const ratio = report.comparison.find((row) => row.ratio);
  if (ratio) {
    const [factor, low, high] = ratio.ratio.map((value) => fixed(value, 3));
    const text = `Perplexity is multiplied by ${factor} (${low} to ${high}).`;
    at("measures").append(element("p", { class: "quiet" }, [text]));
  }
}

function forgotten() {
  if (!report.suites.length) return;
  const rows = report.suites.map((suite) => [
    suite.name,
    { ...suite.comparison },
    `${suite.comparison.interval}, ${counted(suite.rows, "row")}`,
  ]);
  reveal(
    "forgotten",
    compared(rows),
    plots(report.suites.map((suite) => ({ ...suite.comparison, label: suite.name }))),
  );
}

function gate() {
  if (!report.gate) return;
  const four = (value) => signed(fixed(value, 4));
  const rows = report.gate.conditions.map((one) => [
    one.name,
    one.rule,
    four(one.gain),
    `${four(one.low)} to ${four(one.high)}`,
    marked(one.verdict, one.verdict),
  ]);
  reveal(
    "gate",
    element("p", {}, ["The answer is ", marked(report.gate.verdict, report.gate.verdict), "."]),
    table(["", "must be", "gain", "95 % interval", "answer"], rows),
  );
}

function judge() {
  const found = report.judge;
  if (!found) return;
  const shares = [
    ["the adapter's answer is preferred", found.win_rate],
    ["both orders say the same", found.consistent],
    ["the first answer is chosen", found.first_chosen],
    ["the longer answer is chosen", found.longer_chosen],
    ["agrees with people", found.agreement],
  ];
  const rows = shares
    .filter(([, share]) => share)
    .map(([name, share]) => [
      name,
      percent(share.value),
      `${percent(share.low)} to ${percent(share.high)}`,
      number(share.count),
      share.interval,
    ]);
  const equal = found.equal ? ` (${number(found.equal)} of them with equal answers)` : "";
  const kappa = finite(found.kappa) ? ` Cohen's kappa of the agreement with people is ${found.kappa.toFixed(2)}.` : "";
  const unclear = found.unclear.length ? ` Without a verdict, and not counted: ${found.unclear.join(", ")}.` : "";
  reveal(
    "judge",
    element("p", {}, [
      `${found.judge} was asked about each row in both orders. Rows won by the adapter: ${number(found.wins)}, ` +
        `lost: ${number(found.losses)}, ties: ${number(found.ties)}${equal}.${kappa}${unclear}`,
    ]),
    table(["", "share", "95 % interval", "of", "interval by"], rows),
  );
}
