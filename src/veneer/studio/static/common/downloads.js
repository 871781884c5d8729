// Files that the pages make for download.

// Lets the browser save a text as a file of this name and media type.
export function download(name, type, text) {
  const address = URL.createObjectURL(new Blob([text], { type }));
  const anchor = document.createElement("a");
  anchor.href = address;
  anchor.download = name;
  anchor.click();
  // A browser may fetch it some time after the click, if training keeps the processor busy.
  setTimeout(() => URL.revokeObjectURL(address), 60_000);
}

// Text that a spreadsheet would take for a formula gets an apostrophe in front.
const plain = (cell) => (typeof cell === "string" && /^[=+\-@\t\r]/.test(cell) ? `'${cell}` : String(cell ?? ""));
const quoted = (text) => (/[",\n]/.test(text) ? `"${text.replace(/"/g, '""')}"` : text);

// Rows of cells as CSV.
export const csvOf = (rows) => `${rows.map((row) => row.map((cell) => quoted(plain(cell))).join(",")).join("\n")}\n`;

// An SVG drawing of the page as a file, with the colours of the page.
export function saveSvg(drawing, name) {
  const css = getComputedStyle(document.documentElement);
  const colour = (variable) => css.getPropertyValue(variable).trim();
  const copy = drawing.cloneNode(true);
  const { width, height } = drawing.viewBox.baseVal;
  copy.setAttribute("xmlns", "http://www.w3.org/2000/svg");
  copy.setAttribute("width", 2 * width);
  copy.setAttribute("height", 2 * height);
  copy.setAttribute("font-family", "system-ui, DejaVu Sans, sans-serif");
  const text = new XMLSerializer()
    .serializeToString(copy)
    .replace(/var\((--[a-z0-9-]+)\)/g, (_, variable) => colour(variable));
  const ground = `<rect width="100%" height="100%" fill="${colour("--panel")}"/>`;
  download(`${name}.svg`, "image/svg+xml", text.replace(/>/, `>${ground}`));
}
