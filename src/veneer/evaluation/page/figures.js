// Figures as people read them: shares in percent, signs of differences, and which side of 0 an interval lies on.
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
