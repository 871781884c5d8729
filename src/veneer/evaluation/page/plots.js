// Plots: intervals of differences, calibration, and the loss curve.
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
    element("figcaption", {}, [`loss of every step (thin) and of the evaluations (with dots)${unit && `, ${unit}`}`]),
  ]);
}
