(() => {
  const report = data.report;
  const isShare = (name) => data.shares.includes(name);
  const lower = (name) => data.lower.includes(name);
  const finite = (value) => typeof value === "number" && Number.isFinite(value);
  // The ends of an interval may be infinite, which JSON has as null.
  const fixed = (value, digits) => (finite(value) ? value.toFixed(digits) : "–");
  const percent = (value) => (finite(value) ? `${(100 * value).toFixed(1)} %` : "–");
  const shown = (name, value) => (isShare(name) ? percent(value) : fixed(value, 3));
  const signed = (text) => (text.startsWith("-") || text === "–" ? text : `+${text}`);
  const change = (name, value) =>
    !finite(value) ? "–" : signed(isShare(name) ? (100 * value).toFixed(1) : value.toFixed(3));
  const interval = (row) => `${change(row.name, row.low)} to ${change(row.name, row.high)}`;
  // No test can tell a p of 0, to which sums that are rounded come all the same.
  const chance = (p) => (p < 1e-12 ? "< 1e-12" : p.toPrecision(2));

  function judged(row) {
    const [low, high] = lower(row.name) ? [-row.high, -row.low] : [row.low, row.high];
    return low > 0 ? "better" : high < 0 ? "worse" : "unsure";
  }

  function table(heads, rows, name = "plain") {
    const numeric = (value, place) =>
      place > 0 && /^[+\-–<\d]/.test(typeof value === "string" ? value : value.textContent);
    const attributes = (value, place) => (value !== undefined && numeric(value, place) ? { class: "number" } : {});
    // A heading stands as the cells below it do.
    const head = element(
      "tr",
      {},
      heads.map((value, place) => element("th", attributes((rows[0] || [])[place], place), [value])),
    );
    const body = rows.map((row) =>
      element(
        "tr",
        {},
        row.map((value, place) => element("td", attributes(value, place), [value])),
      ),
    );
    return element("table", { class: name }, [element("thead", {}, [head]), element("tbody", {}, body)]);
  }

  function reveal(id, ...children) {
    at(id).hidden = false;
    at(id).append(...children);
  }

  const marked = (text, kind) => element("span", { class: kind }, [text]);

  // ---------------------------------------------------------------- tables

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
    const kappa = finite(found.kappa)
      ? ` Cohen's kappa of the agreement with people is ${found.kappa.toFixed(2)}.`
      : "";
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

  // ---------------------------------------------------------------- plots

  function plots(rows) {
    // Perplexity is the loss in another unit, and would dwarf all others.
    const others = rows.filter((row) => !isShare(row.name) && row.name !== "perplexity");
    const groups = [
      ["difference in points", rows.filter((row) => isShare(row.name)), 100],
      ["difference", others, 1],
    ];
    const charts = groups
      .filter(([, group]) => group.length)
      .map(([label, group, unit]) => intervals(label, group, unit));
    return element("div", { class: "charts" }, charts);
  }

  const short = (name) => (name.length > 26 ? `…${name.slice(-25)}` : name);

  function intervals(label, rows, unit) {
    const width = 500,
      left = 190,
      right = 14,
      line = 24,
      height = rows.length * line + 34;
    const ends = rows
      .flatMap((row) => [row.low, row.high, row.difference])
      .filter(finite)
      .map((value) => unit * value);
    const low = Math.min(0, ...ends),
      high = Math.max(0, ...ends),
      span = high - low || 1;
    const x = (value) => left + ((unit * value - low) / span) * (width - left - right);
    const svg = drawing("svg", { width, height, role: "img", "aria-label": label });
    svg.append(drawing("line", { x1: x(0), x2: x(0), y1: 4, y2: height - 24, class: "zero" }));
    rows.forEach((row, place) => {
      const y = place * line + line / 2 + 4,
        kind = judged(row);
      svg.append(
        drawing("text", { x: left - 10, y: y + 4, "text-anchor": "end", class: "name" }, short(row.label || row.name)),
      );
      if (!finite(row.low) || !finite(row.high)) return;
      svg.append(drawing("line", { x1: x(row.low), x2: x(row.high), y1: y, y2: y, class: `interval ${kind}` }));
      for (const end of [row.low, row.high])
        svg.append(drawing("line", { x1: x(end), x2: x(end), y1: y - 4, y2: y + 4, class: `interval ${kind}` }));
      const dot = drawing("circle", { cx: x(row.difference), cy: y, r: 4, class: kind });
      dot.append(drawing("title", {}, `${row.name}: ${change(row.name, row.difference)} (${interval(row)})`));
      svg.append(dot);
    });
    const digits = span >= 20 ? 0 : span >= 2 ? 1 : 3;
    svg.append(drawing("text", { x: left, y: height - 6 }, low.toFixed(digits)));
    svg.append(drawing("text", { x: width - right, y: height - 6, "text-anchor": "end" }, high.toFixed(digits)));
    return element("figure", {}, [
      svg,
      element("figcaption", {}, [`${label}, with 95 % intervals; the dashed line is no difference`]),
    ]);
  }

  function reliability(who, found) {
    const size = 240,
      pad = 30,
      at_ = (value) => pad + value * (size - 2 * pad),
      up = (value) => size - at_(value);
    const svg = drawing("svg", { width: size, height: size, role: "img", "aria-label": `calibration of the ${who}` });
    svg.append(drawing("line", { x1: at_(0), y1: up(0), x2: at_(1), y2: up(1), class: "zero" }));
    svg.append(
      drawing("line", { x1: at_(0), y1: up(0), x2: at_(1), y2: up(0) }),
      drawing("line", { x1: at_(0), y1: up(0), x2: at_(0), y2: up(1) }),
    );
    svg.append(
      drawing("polyline", { points: found.bins.map((bin) => `${at_(bin.confidence)},${up(bin.right)}`).join(" ") }),
    );
    for (const bin of found.bins) {
      const dot = drawing("circle", { cx: at_(bin.confidence), cy: up(bin.right), r: 4, class: "point" });
      dot.append(
        drawing(
          "title",
          {},
          `${counted(bin.rows, "row")}: confidence ${bin.confidence.toFixed(3)}, right ${bin.right.toFixed(3)}`,
        ),
      );
      svg.append(dot);
    }
    svg.append(drawing("text", { x: size / 2, y: size - 8, "text-anchor": "middle" }, "confidence, 0 to 1"));
    svg.append(
      drawing(
        "text",
        { x: 12, y: size / 2, "text-anchor": "middle", transform: `rotate(-90 12 ${size / 2})` },
        "right, 0 to 1",
      ),
    );
    const range = `${fixed(found.low, 3)} to ${fixed(found.high, 3)}`;
    const text = `${who}: calibration error ${fixed(found.ece, 3)} (95 %: ${range}; ${found.interval})`;
    return element("figure", {}, [svg, element("figcaption", {}, [text])]);
  }

  function curve(losses, unit) {
    const lines = [losses.steps, losses.evaluations].map((points) => points.filter(([, loss]) => finite(loss)));
    const every = lines.flat();
    if (!every.length) return null;
    const width = 560,
      height = 240,
      pad = 44;
    const last = Math.max(...every.map(([step]) => step)),
      top = Math.max(...every.map(([, loss]) => loss)) || 1;
    const x = (step) => pad + (step / last) * (width - pad - 10),
      y = (loss) => height - 30 - (loss / top) * (height - 44);
    const svg = drawing("svg", { width, height, role: "img", "aria-label": "loss curve" });
    svg.append(drawing("line", { x1: pad, x2: width - 10, y1: y(0), y2: y(0) }));
    svg.append(
      drawing("text", { x: pad - 6, y: y(top) + 4, "text-anchor": "end" }, top.toFixed(2)),
      drawing("text", { x: pad - 6, y: y(0) + 4, "text-anchor": "end" }, "0"),
    );
    svg.append(drawing("text", { x: width - 10, y: height - 12, "text-anchor": "end" }, `step ${number(last)}`));
    lines.forEach((points, place) => {
      svg.append(
        drawing("polyline", {
          points: points.map(([step, loss]) => `${x(step)},${y(loss)}`).join(" "),
          class: place ? "second" : "",
        }),
      );
    });
    for (const [step, loss] of lines[1]) {
      const dot = drawing("circle", { cx: x(step), cy: y(loss), r: 3.5, class: "worse" });
      dot.append(drawing("title", {}, `step ${step}: evaluation loss ${loss.toFixed(4)}`));
      svg.append(dot);
    }
    return element("figure", {}, [
      svg,
      element("figcaption", {}, [
        `loss of every step (thin) and of the evaluations (with dots)${unit && `, ${unit}`}`,
      ]),
    ]);
  }

  // ---------------------------------------------------------------- details

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

  function trained() {
    if (!report.trained) return;
    reveal(
      "trained",
      table(
        ["", ""],
        Object.entries(report.trained.facts).map(([name, value]) => [name, element("span", {}, [String(value)])]),
        "plain facts",
      ),
    );
    const plan = report.trained.plan || [];
    const rounded = (value) => (value >= 100 ? number(Math.round(value)) : value.toPrecision(3));
    if (plan.length) {
      at("trained").append(
        element("h3", {}, ["Plan and measurement"]),
        table(
          ["", "planned", "measured", "measured / planned"],
          plan.map((one) => [
            one.name,
            rounded(one.planned),
            rounded(one.measured),
            (one.measured / one.planned).toFixed(2),
          ]),
        ),
      );
    }
    const drawn = curve(report.trained.losses, report.trained.loss_unit);
    if (drawn) at("trained").append(drawn);
  }

  function samples() {
    const found = (report.trained && report.trained.samples) || [];
    if (!found.length) return;
    const prompts = [...new Set(found.flatMap((one) => one.prompts))];
    at("which-sample").append(
      ...prompts.map((text, place) =>
        element("option", { value: place }, [text.length > 80 ? `${text.slice(0, 79)}…` : text]),
      ),
    );
    const show = () => {
      const prompt = prompts[at("which-sample").value];
      const lines = found
        .filter((one) => one.prompts.includes(prompt))
        .map((one) => {
          const answer = one.answers[one.prompts.indexOf(prompt)] + (one.cut_short ? " …" : "");
          return element("tr", {}, [
            element("td", { class: "number" }, [number(one.step)]),
            element("td", {}, [element("div", { class: "answer" }, [answer || "(nothing)"])]),
          ]);
        });
      const head = element("tr", {}, [element("th", { class: "number" }, ["step"]), element("th", {}, ["answer"])]);
      at("sampled").replaceChildren(
        element("div", { class: "question" }, [prompt]),
        element("table", {}, [element("thead", {}, [head]), element("tbody", {}, lines)]),
      );
    };
    at("which-sample").addEventListener("change", show);
    const share = (100 * found[found.length - 1].share).toFixed(1);
    const cut = found.some((one) => one.cut_short) ? " Answers that end with … were cut short for that." : "";
    at("sample-note").textContent = `Samples took ${share} % of the run's time, and may take 3 %.${cut}`;
    reveal("samples");
    show();
  }

  // ---------------------------------------------------------------- rows

  const pieces = (list) => list.map(([text, same]) => (same ? text : element("mark", {}, [text])));

  function side(name, list, exact, loss) {
    const notes = [name];
    if (finite(exact)) notes.push(exact === 1 ? "exact" : "not exact");
    if (finite(loss)) notes.push(`${loss.toFixed(3)} nats a token`);
    return element("div", { class: "side" }, [
      element("h4", {}, [notes.join(", ")]),
      element("div", { class: "answer" }, list.length ? pieces(list) : ["(nothing)"]),
    ]);
  }

  function card(row) {
    const sides = [side("expected", row.reference), side("base", row.base, row.exact[0], row.losses[0])];
    if (row.adapter) sides.push(side("adapter", row.adapter, row.exact[1], row.losses[1]));
    return element("article", { class: "card" }, [
      element("h3", {}, [row.where]),
      element("div", { class: "question" }, [row.question]),
      element("div", { class: "sides" }, sides),
    ]);
  }

  function rows() {
    if (!data.answered) return;
    const both = report.comparison.length > 0;
    const names = both
      ? [
          "where the adapter changed most for the worse",
          "where the adapter changed most for the better",
          "where nothing became better or worse",
        ]
      : ["the worst rows", "the best rows", ""];
    const lists = ["worst", "best", "same"];
    lists.forEach((key, place) => {
      if (data[key].length) at("which").append(element("option", { value: key }, [names[place]]));
    });
    const show = () => at("cards").replaceChildren(...data[at("which").value].map(card));
    at("which").addEventListener("change", show);
    const listed = lists.reduce((sum, key) => sum + data[key].length, 0);
    at("legend").textContent =
      `${number(listed)} of ${number(data.answered)} rows with an answer; ` +
      "what differs from the other text is marked";
    reveal("rows");
    show();
  }

  summarise();
  gate();
  measures();
  forgotten();
  judge();
  details();
  trained();
  samples();
  if (data.histograms.length) reveal("lengths", element("div", { class: "charts" }, data.histograms.map(histogram)));
  rows();
})();
