// Further results of metrics: confusion matrices, fields, calibration, signatures.
function confusion(who, found) {
  const columns = [...found.labels, "unparsable"];
  const most = Math.max(1, ...found.counts.flat());
  const head = element("tr", {}, [
    element("th", {}, ["expected ↓ given →"]),
    ...columns.map((name) => element("th", {}, [name])),
  ]);
  const rows = found.counts.map((counts, line) =>
    element("tr", {}, [
      element("th", {}, [found.labels[line]]),
      ...counts.map((count, place) => {
        const cell = element("td", { title: `${found.labels[line]} taken for ${columns[place]}: ${count}` }, [
          count ? number(count) : "",
        ]);
        const part = Math.round((70 * count) / most);
        const colour = `var(--${line === place ? "better" : "worse"})`;
        if (count) cell.style.background = `color-mix(in srgb, ${colour} ${part}%, transparent)`;
        return cell;
      }),
    ]),
  );
  const made = element("table", { class: "plain confusion" }, [
    element("thead", {}, [head]),
    element("tbody", {}, rows),
  ]);
  return element("figure", {}, [made, element("figcaption", {}, [`${who}: confusion matrix`])]);
}

function fields(who, found) {
  const kinds = ["right", "absent", "null", "wrong", "extra"];
  const rows = Object.entries(found).map(([name, counts]) => [name, ...kinds.map((kind) => number(counts[kind]))]);
  return element("figure", {}, [
    table(["field", ...kinds], rows),
    element("figcaption", {}, [`${who}: fields of the JSON answers`]),
  ]);
}

function details() {
  for (const [kind, draw] of [
    ["confusion", confusion],
    ["fields", fields],
    ["calibration", reliability],
  ]) {
    const made = Object.entries(report.details)
      .filter(([, found]) => found[kind])
      .map(([who, found]) => draw(who, found[kind]));
    if (made.length) reveal("details", element("div", { class: "charts" }, made));
  }
  for (const name of ["bleu", "chrf"]) {
    for (const [who, found] of Object.entries(report.details)) {
      if (found[name])
        reveal(
          "details",
          element("p", {}, [
            `${who}: ${name} ${found[name].score.toFixed(2)} `,
            element("code", {}, [found[name].signature]),
          ]),
        );
    }
  }
}
