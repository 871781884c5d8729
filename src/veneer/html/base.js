"use strict";
const data = JSON.parse(document.getElementById("data").textContent);
const number = (value) => value.toLocaleString("en");
// A number of things, by the name of one.
const counted = (count, one) => `${number(count)} ${one}${count === 1 ? "" : "s"}`;
const at = (id) => document.getElementById(id);

// Marks that turn the direction of letters would turn the order of what stands behind them, too: as escapes they do
// not.
const visible = (text) =>
  text.replace(/[\u2028-\u202e\u2066-\u2069]/g, (mark) => `\\u${mark.charCodeAt(0).toString(16)}`);

// Everything that comes from rows goes through `text`, so that nothing of it can become markup.
function element(name, attributes = {}, children = []) {
  const made = document.createElement(name);
  for (const [key, value] of Object.entries(attributes)) {
    if (key === "class") made.className = value;
    else if (key === "title") made.title = value;
    else made.setAttribute(key, value);
  }
  for (const child of children)
    made.append(typeof child === "string" ? document.createTextNode(visible(child)) : child);
  return made;
}

function drawing(name, attributes, text) {
  const made = document.createElementNS("http://www.w3.org/2000/svg", name);
  for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
  if (text !== undefined) made.textContent = text;
  return made;
}

function histogram(one) {
  const width = 360,
    height = 150,
    left = 8,
    base = height - 20;
  const most = Math.max(...one.counts, 1);
  const step = (width - 2 * left) / one.counts.length;
  const svg = drawing("svg", { width, height, role: "img", "aria-label": one.name });
  one.counts.forEach((count, place) => {
    const tall = ((base - 8) * count) / most;
    const bar = drawing("rect", {
      x: left + place * step,
      y: base - tall,
      width: Math.max(step - 1, 0.5),
      height: tall,
      class: "bar",
    });
    bar.append(drawing("title", {}, `${one.edges[place]} to ${one.edges[place + 1]}: ${counted(count, "row")}`));
    svg.append(bar);
  });
  svg.append(drawing("line", { x1: left, x2: width - left, y1: base, y2: base }));
  const last = one.edges[one.edges.length - 1];
  svg.append(drawing("text", { x: left, y: height - 5 }, number(one.edges[0])));
  svg.append(drawing("text", { x: width / 2, y: height - 5, "text-anchor": "middle" }, number(Math.round(last / 2))));
  svg.append(drawing("text", { x: width - left, y: height - 5, "text-anchor": "end" }, `${number(last)} and more`));
  return element("figure", {}, [
    svg,
    element("figcaption", {}, [`${one.name} (highest bar: ${counted(most, "row")})`]),
  ]);
}
