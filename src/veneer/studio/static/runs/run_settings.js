// The settings of several runs, and those in which they differ.
import { errorIn, useAnswers } from "/static/common/hooks.js";
import { apiPath } from "/static/common/requests.js";

const IGNORED = new Set(["output"]);

// The settings of the runs that have arrived, by the runs' names; whether others are still loading; the first error.
export function useSettings(names) {
  const answers = useAnswers(names.map((name) => apiPath("/studio/run", { name })));
  const arrived = names.map((name, place) => [name, answers[place].value]).filter(([, value]) => value);
  const settingsOf = ({ settings }) => Object.fromEntries(settings.map(({ key, value }) => [key, value]));
  return {
    settings: Object.fromEntries(arrived.map(([name, value]) => [name, settingsOf(value)])),
    isLoading: answers.some(({ value, error }) => !value && !error),
    error: errorIn(answers),
  };
}

// The keys of the settings that are not the same in all of these runs.
export function differingKeys(settings, names) {
  const known = names.filter((name) => name in settings);
  const keys = [...new Set(known.flatMap((name) => Object.keys(settings[name])))].filter((key) => !IGNORED.has(key));
  return keys.filter((key) => new Set(known.map((name) => JSON.stringify(settings[name][key]))).size > 1);
}
