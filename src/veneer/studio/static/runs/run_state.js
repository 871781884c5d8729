// What a run and its job say together: the run's title, its state, and what its result can be used for.

// The name of a run on the pages. A run of a job has the job's name.
export const titleOf = (run, jobs) => {
  const job = jobs.get(run.name);
  return job ? job.veneer.name : run.name;
};

// The state of a run. That in the run's folder is the state of its last process: a job that was paused before its first
// step left an error there.
export const stateOf = (run, jobs) => {
  const job = jobs.get(run.name);
  return job && !["succeeded", "failed"].includes(job.veneer.status) ? job.veneer.status : run.state;
};

// Whether the run has made an adapter that answers. A reward model gives scores: it cannot chat, and is not evaluated
// or exported here.
export const canAnswer = (run, job) =>
  run.state === "finished" &&
  (!job || job.veneer.status === "succeeded") &&
  run.method !== "full" &&
  run.objective !== "reward";

// Whether the run's loss is that of imitating the rows.
export const isImitation = (run) => ["sft", "pretraining"].includes(run.objective);

// The metric by which the evaluations of all these runs are compared. Null if that is the loss, or they have no common
// one.
export function commonMetric(runs) {
  const judged = runs.filter((run) => run.best_value !== null || run.best_by !== "loss");
  const metrics = [...new Set(judged.map((run) => run.best_by))];
  return metrics.length === 1 && runs.every((run) => run.best_by === metrics[0]) ? metrics[0] : null;
}
