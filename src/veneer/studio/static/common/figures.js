// Formats numbers, times, names and addresses for the pages.
const isMissing = (value) => value === null || value === undefined;
const MISSING = "–";

// A number with so many digits after the point.
export const number = (value, digits = 0) =>
  isMissing(value)
    ? MISSING
    : value.toLocaleString("en", { maximumFractionDigits: digits, minimumFractionDigits: digits });

// A loss, with four digits after the point.
export const loss = (value) => (isMissing(value) ? MISSING : value.toFixed(4).replace("-0.0000", "0.0000"));

// A measured value, with four significant digits.
export function short(value) {
  if (isMissing(value)) return MISSING;
  const isFar = value !== 0 && (Math.abs(value) < 1e-3 || Math.abs(value) >= 1e6);
  return isFar ? value.toExponential(2) : String(Number(value.toPrecision(4)));
}

// A value at an axis or in a legend: like `short`, but with separators for thousands, and with all digits of a whole
// number below a million.
export function plotted(value) {
  if (isMissing(value) || Math.abs(value) < 1000 || Math.abs(value) >= 1e6) return short(value);
  return number(Number.isInteger(value) ? value : Number(value.toPrecision(4)));
}

// A time span.
export function duration(seconds) {
  if (isMissing(seconds)) return MISSING;
  if (seconds < 0.1) return `${number(1000 * seconds, seconds < 0.001 ? 2 : 0)} ms`;
  if (seconds < 60) return `${seconds < 10 ? seconds.toFixed(1) : Math.round(seconds)} s`;
  const minutes = Math.floor(Math.round(seconds) / 60);
  return minutes < 60
    ? `${minutes} min ${Math.round(seconds) % 60} s`
    : `${Math.floor(minutes / 60)} h ${minutes % 60} min`;
}

// A number of bytes.
export function size(bytes) {
  if (isMissing(bytes)) return MISSING;
  if (bytes < 1e6) return `${number(bytes / 1e3, 1)} kB`;
  return bytes < 1e9 ? `${number(bytes / 1e6)} MB` : `${number(bytes / 1e9, 2)} GB`;
}

// A moment with its year. Moments are seconds since 1970.
export const moment = (seconds) =>
  seconds ? new Date(seconds * 1000).toLocaleString("en-GB", { dateStyle: "medium", timeStyle: "short" }) : MISSING;

const DAY = { day: "numeric", month: "short" };
const DAY_AND_TIME = { ...DAY, hour: "2-digit", minute: "2-digit" };

// The day and the time of a moment.
export const day = (seconds) => (seconds ? new Date(seconds * 1000).toLocaleString("en-GB", DAY_AND_TIME) : MISSING);

// The day of a moment.
export const date = (seconds) => (seconds ? new Date(seconds * 1000).toLocaleDateString("en-GB", DAY) : "");

// The time of a moment.
export const clock = (seconds) => new Date(seconds * 1000).toLocaleTimeString("en-GB");

// A number of things, given the name of one.
export const counted = (count, thing) => `${number(count)} ${thing}${count === 1 ? "" : "s"}`;

// A word of a command line, quoted if necessary.
export const word = (text) => (/^[A-Za-z0-9_./:@%+=,-]+$/.test(text) ? text : `'${text.replace(/'/g, "'\\''")}'`);

// The last part of a path.
export const last = (path) => (path || "").replace(/\/+$/, "").split("/").pop();

// A name with spaces for its underscores.
export const spaced = (name) => name.replace(/_/g, " ");

// The value of a setting.
export function shown(value) {
  if (isMissing(value)) return MISSING;
  return typeof value === "object" ? JSON.stringify(value) : String(value);
}

// The address of a page.
export function link(page, name = "", query = {}) {
  const values = new URLSearchParams(query).toString();
  return `#/${page}${name === "" ? "" : `/${encodeURIComponent(name)}`}${values ? `?${values}` : ""}`;
}

// The address of the page that compares these runs.
export const comparison = (names) => link("compare", "", { runs: JSON.stringify(names) });

// A typed number. One that is too large stays a string, which the studio refuses: in JSON it would be null, meaning
// "not given".
export const numeral = (text) => (Number.isFinite(Number(text)) ? Number(text) : text);
