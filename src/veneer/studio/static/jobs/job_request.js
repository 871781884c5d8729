// The values of the form of a new job, and the request that is made of them.
import { numeral, shown } from "/static/common/figures.js";
import { OBJECTIVES, objectiveOf } from "/static/jobs/objectives.js";
import { FIRST, isEmpty, requestedRewards, rewardsOf } from "/static/jobs/rewards.js";

// The fields of every objective, as those of `OBJECTIVES`.
const COMMON = [
  { key: "train.epochs", name: "Epochs", hint: "Passes over the rows. Empty: veneer's default." },
  { key: "train.steps", name: "Steps", hint: "Optimiser steps, instead of epochs." },
  {
    key: "train.learning_rate",
    name: "Learning rate",
    hint: "The peak rate. Empty: chosen for this model and method.",
  },
  {
    key: "train.examples_per_step",
    name: "Rows per step",
    hint: "Rows in one optimiser step, over all micro-batches.",
  },
  {
    key: "lora.rank",
    name: "Rank",
    hint: "The inner size of the adapter; auto chooses it by how much the rows have to teach.",
  },
  {
    key: "data.held_out",
    name: "Held out",
    hint: "Share of the rows kept for the evaluation loss and the report, such as 0.1.",
  },
  {
    key: "train.from_adapter",
    name: "Continue from",
    hint: "An adapter of this folder to train further.",
    choices: "adapters",
  },
];

// The fields of an objective that are always in the form.
export const fieldsOf = (objective) => [...COMMON, ...objectiveOf(objective).fields];

// The values that a form begins with.
export const newForm = (query) => ({
  model: "",
  file: query.file || "",
  validation: "",
  method: "qlora",
  objective: query.objective || "sft",
  suffix: "",
  seed: "",
  priority: "0",
  settings: {},
  rewards: [FIRST],
});

// The form with another objective. A setting of another objective would be refused.
export function withObjective(form, name) {
  const others = OBJECTIVES.filter((objective) => objective.name !== name);
  const foreign = others.flatMap(({ fields }) => fields.map(({ key }) => key));
  const settings = Object.entries(form.settings).filter(([key]) => !foreign.includes(key));
  return { ...form, objective: name, settings: Object.fromEntries(settings) };
}

// The values of a form for a job like another one. A mapping becomes one field per key, unless it is the value of a
// known setting.
export function valuesLike(job, options) {
  const known = new Set(options.settings.map((setting) => setting.key));
  const { method, objective = "sft", rewards = [], ...rest } = job.veneer.settings;
  const flat = {};
  const flatten = (values, prefix) => {
    for (const [name, value] of Object.entries(values)) {
      const key = prefix + name;
      const isMapping = value !== null && typeof value === "object" && !Array.isArray(value);
      if (isMapping && !known.has(key)) flatten(value, `${key}.`);
      else if (value !== null) flat[key] = shown(value);
    }
  };
  flatten(rest, "");
  const { "train.seed": seed = "", ...settings } = flat;
  return {
    model: job.model,
    file: job.training_file,
    validation: job.validation_file || "",
    method,
    objective,
    settings,
    seed,
    ...(rewards.length ? { rewards: rewardsOf(job, rewards) } : {}),
  };
}

// Whether a file can only be used by a job that maps its columns.
export const isUnnamed = (file) => Boolean(file && file.veneer.unnamed);

// The input that a job with this file (undefined if none is chosen) still needs; an empty string if nothing is missing.
export function missingIn({ objective, rewards, settings }, file) {
  if (isUnnamed(file) && !settings["data.columns"])
    return "Give the names of the file's columns by the setting data.columns, or choose another file";
  if (objective === "grpo" && !rewards.length) return "Add a reward";
  if (objective === "grpo" && rewards.some(isEmpty)) return "Fill in every reward, or remove it";
  if (objective === "distillation" && !settings["distillation.teacher"] && !settings["distillation.teacher_adapter"])
    return "Choose a teacher, or a teacher's adapter";
  return "";
}

// A number that overflows cannot be sent as JSON. It stays a string, which the studio refuses by its value.
function requireFinite(key, value) {
  if (typeof value === "number" && !Number.isFinite(value)) throw new RangeError(key);
  return value;
}

// The value of JSON, or undefined if the text is not JSON.
function jsonValue(text) {
  try {
    return JSON.parse(text, requireFinite);
  } catch {
    return undefined;
  }
}

// Words with quotation marks of either kind, and words without.
const WORDS = /"(?:[^"\\]|\\.)*"|'[^']*'|[^\s,:{}[\]"'][^,:{}[\]"']*/g;

// A list or mapping as JSON, if it was typed as in YAML: {prompt: mail}, [q_proj, v_proj].
const inQuotes = (text) =>
  text.replace(WORDS, (word) => {
    if (word.startsWith("'")) return JSON.stringify(word.slice(1, -1));
    return jsonValue(word) === undefined ? JSON.stringify(word.trim()) : word;
  });

// The value of typed text. For a setting that is a string, text that looks like a number stays a string.
function typedValue(text, isText) {
  const value = text.trim();
  if (value === "") return undefined;
  if (value === "null") return null;
  if (isText) return value;
  const isGroup = /^(\[.*\]|\{.*\})$/s.test(value);
  return jsonValue(value) ?? (isGroup ? jsonValue(inQuotes(value)) : undefined) ?? value;
}

// The request of a job. `options` are the choices for forms.
export function requestOf(form, options) {
  const known = (options || {}).settings || [];
  const texts = new Set(known.filter((setting) => setting.is_text).map((setting) => setting.key));
  const typed = Object.entries(form.settings).map(([key, text]) => [key, typedValue(text, texts.has(key))]);
  return {
    model: form.model,
    training_file: form.file,
    ...(form.validation ? { validation_file: form.validation } : {}),
    ...(form.suffix ? { suffix: form.suffix } : {}),
    ...(form.seed !== "" ? { seed: numeral(form.seed) } : {}),
    veneer: {
      method: form.method,
      objective: form.objective,
      priority: Number(form.priority) || 0,
      settings: {
        ...Object.fromEntries(typed.filter(([, value]) => value !== undefined)),
        ...(form.objective === "grpo" ? { rewards: requestedRewards(form.rewards) } : {}),
      },
    },
  };
}

// The request of the first rows as a job would train them. Only the settings that shape rows are part of it.
const SHAPING = ["rewards", "data.columns", "data.max_length"];
export function previewOf({ model, training_file, veneer: { method, objective, settings } }) {
  const own = Object.entries(settings).filter(([key]) => SHAPING.includes(key) || key.startsWith(`${objective}.`));
  return {
    model,
    training_file,
    veneer: { method, objective, settings: Object.fromEntries(own) },
    first: 0,
    count: 2,
  };
}
