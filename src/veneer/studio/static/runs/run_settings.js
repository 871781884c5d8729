// The settings in which several runs differ.
import { useAnswer } from "/static/common/hooks.js";

// The settings that differ in the answer of one address (`/studio/differing`): those of each run, by the runs' names,
// and the keys of all; whether the answer is still missing; its error. It is asked for again when `version` changes.
export function useDiffering(path, version = 0) {
  const { value, error } = useAnswer(path, version);
  const settings = value ? value.settings : {};
  const keys = [...new Set(Object.values(settings).flatMap(Object.keys))];
  return { settings, keys, isLoading: !value && !error, error };
}
