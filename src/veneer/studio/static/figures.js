// Formats numbers, times and names for the pages, and makes files for download.
export const number = (value, digits = 0) =>
  value === null || value === undefined
    ? "–"
    : value.toLocaleString("en", { maximumFractionDigits: digits, minimumFractionDigits: digits });
export const loss = (value) =>
  value === null || value === undefined ? "–" : value.toFixed(4).replace("-0.0000", "0.0000");
export const short = (value) =>
  value === null || value === undefined
    ? "–"
    : value !== 0 && (Math.abs(value) < 1e-3 || Math.abs(value) >= 1e6)
      ? value.toExponential(2)
      : String(Number(value.toPrecision(4)));
export function duration(seconds) {
  if (seconds === null || seconds === undefined) return "–";
  if (seconds < 0.1) return `${number(1000 * seconds, seconds < 0.001 ? 2 : 0)} ms`;
  if (seconds < 60) return `${seconds < 10 ? seconds.toFixed(1) : Math.round(seconds)} s`;
  const minutes = Math.floor(Math.round(seconds) / 60);
  return minutes < 60
    ? `${minutes} min ${Math.round(seconds) % 60} s`
    : `${Math.floor(minutes / 60)} h ${minutes % 60} min`;
}
export const size = (bytes) =>
  bytes === null || bytes === undefined
    ? "–"
    : bytes < 1e6
      ? `${number(bytes / 1e3, 1)} kB`
      : bytes < 1e9
        ? `${number(bytes / 1e6)} MB`
        : `${number(bytes / 1e9, 2)} GB`;
export const moment = (seconds) =>
  seconds ? new Date(seconds * 1000).toLocaleString("en-GB", { dateStyle: "medium", timeStyle: "short" }) : "–";
export const day = (seconds) =>
  seconds
    ? new Date(seconds * 1000).toLocaleString("en-GB", {
        day: "numeric",
        month: "short",
        hour: "2-digit",
        minute: "2-digit",
      })
    : "–";
export const date = (seconds) =>
  seconds ? new Date(seconds * 1000).toLocaleDateString("en-GB", { day: "numeric", month: "short" }) : "";
export const clock = (seconds) => new Date(seconds * 1000).toLocaleTimeString("en-GB");
// A number of things, given the name of one.
export const counted = (count, one) => `${number(count)} ${one}${count === 1 ? "" : "s"}`;
// A word of a command line, quoted if necessary.
export const word = (text) => (/^[A-Za-z0-9_./:@%+=,-]+$/.test(text) ? text : `'${text.replace(/'/g, "'\\''")}'`);
export const last = (path) => (path || "").replace(/\/+$/, "").split("/").pop();
export const shown = (value) =>
  value === null || value === undefined ? "–" : typeof value === "object" ? JSON.stringify(value) : String(value);
export const link = (page, name = "", query = {}) => {
  const given = new URLSearchParams(query).toString();
  return `#/${page}${name === "" ? "" : `/${encodeURIComponent(name)}`}${given ? `?${given}` : ""}`;
};
// A typed number. One that is too large stays a string, which the studio refuses: in JSON it would be null, meaning "not given".
export const numeral = (text) => (Number.isFinite(Number(text)) ? Number(text) : text);

export function download(name, kind, text) {
  const address = URL.createObjectURL(new Blob([text], { type: kind }));
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
export const csvOf = (rows) => `${rows.map((row) => row.map((cell) => quoted(plain(cell))).join(",")).join("\n")}\n`;
