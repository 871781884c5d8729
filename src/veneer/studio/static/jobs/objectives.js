// The objectives of training with their own settings.
const BETA = "How strongly the model is kept close to its initial state.";

// Each objective has a name, a description, a hint on its rows, and the fields of its own settings. A field has the
// key of its setting, a name and a hint. `choices` is a list, or "bases" or "adapters" for those that the studio has.
export const OBJECTIVES = [
  {
    name: "sft",
    text: "supervised: imitate the answers",
    rows: "Rows with one answer each.",
    fields: [],
  },
  {
    name: "dpo",
    text: "DPO: prefer one answer to another",
    rows: "Pairs of a chosen and a rejected answer.",
    fields: [{ key: "dpo.beta", name: "Beta", hint: BETA }],
  },
  {
    name: "orpo",
    text: "ORPO: imitate and prefer at once",
    rows: "Pairs; no reference is needed.",
    fields: [{ key: "orpo.beta", name: "Beta", hint: "Weight of the odds ratio next to the cross-entropy." }],
  },
  {
    name: "simpo",
    text: "SimPO: prefer by mean log-probability",
    rows: "Pairs; no reference is needed.",
    fields: [
      { key: "simpo.beta", name: "Beta", hint: "Factor of the mean log-probabilities." },
      { key: "simpo.gamma", name: "Gamma", hint: "The margin by which the chosen answer should win." },
    ],
  },
  {
    name: "cpo",
    text: "CPO: contrastive preferences",
    rows: "Pairs; no reference is needed.",
    fields: [{ key: "cpo.beta", name: "Beta", hint: "Factor of the difference of log-probabilities." }],
  },
  {
    name: "kto",
    text: "KTO: answers that are good or bad",
    rows: "Rows of one answer with label true or false.",
    fields: [{ key: "kto.beta", name: "Beta", hint: BETA }],
  },
  {
    name: "grpo",
    text: "GRPO: reinforcement by rewards",
    rows: "Prompts without answers; answers are sampled, and judged by the rewards below.",
    fields: [
      {
        key: "grpo.num_generations",
        name: "Answers per prompt",
        hint: "The answers to each prompt are compared with each other.",
      },
      {
        key: "grpo.max_completion_length",
        name: "Longest answer",
        hint: "In tokens; longer answers are cut, and counted.",
      },
      { key: "grpo.temperature", name: "Temperature", hint: "The temperature of sampling." },
      { key: "grpo.beta", name: "Beta", hint: `${BETA} 0: not at all.` },
      {
        key: "grpo.loss_type",
        name: "Loss",
        hint: "How losses are averaged.",
        choices: ["dapo", "grpo", "dr_grpo"],
      },
    ],
  },
  {
    name: "distillation",
    text: "distillation: follow a teacher",
    rows: "Rows with one answer each; a teacher gives the probabilities of its tokens.",
    fields: [
      {
        key: "distillation.teacher",
        name: "Teacher",
        hint: "A model with the same vocabulary. Empty: the base model, with the teacher's adapter.",
        choices: "bases",
      },
      {
        key: "distillation.teacher_adapter",
        name: "Teacher's adapter",
        hint: "An adapter on the teacher.",
        choices: "adapters",
      },
      {
        key: "distillation.divergence",
        name: "Divergence",
        hint: "The direction between teacher and student.",
        choices: ["forward", "reverse", "generalised"],
      },
      {
        key: "distillation.temperature",
        name: "Temperature",
        hint: "Divides the logits of teacher and student.",
      },
      {
        key: "distillation.top_k",
        name: "Kept tokens",
        hint:
          "The teacher's most likely tokens, computed once before training. " +
          "Empty: all tokens, computed in each step.",
      },
    ],
  },
  {
    name: "reward",
    text: "reward model: score answers",
    rows: "Pairs; the result scores answers, and cannot chat.",
    fields: [{ key: "reward.centring", name: "Centring", hint: "Holds scores around 0; 0.01 is usual." }],
  },
  {
    name: "pretraining",
    text: "pretraining: learn from plain text",
    rows: "Plain text, of which every token is trained.",
    fields: [],
  },
];

// The objective with a name.
export const objectiveOf = (name) => OBJECTIVES.find((objective) => objective.name === name) || OBJECTIVES[0];
