"""The settings of the optimisation."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from veneer.config.numbers import NUMBER, Count, Duration, Folder, Fraction, Lanes, Name, StepRows, Steps
from veneer.config.section import Section
from veneer.enums import OptimizerName, OtherBase, Publish, Schedule


class TrainSection(Section):
    """Settings of the optimisation."""

    place = "train"

    examples_per_step: StepRows | Literal["auto"] | None = None
    """The number of rows in one optimiser step: 8, unless `tokens_per_step` is given. `auto` uses fewer if the run
    would have less than 100 steps."""
    tokens_per_step: Annotated[int, Field(ge=1, le=100_000_000), NUMBER] | None = None
    """The number of tokens in one optimiser step, instead of `examples_per_step`."""
    epochs: Annotated[float, Field(gt=0.0, le=1e6, allow_inf_nan=False), NUMBER] | None = None
    """The number of passes over the rows; fractions are allowed. 1, unless `steps` is given."""
    steps: Steps | None = None
    """The number of optimiser steps, instead of `epochs`."""
    time_limit: Duration | None = None
    """The time that the whole run may take, including loading and evaluation: seconds, or `90s`, `10m`, `1h30m`. Before
    the first step veneer measures how many of the steps of `epochs` or `steps` fit, and fixes this number. It is
    recorded as `steps`."""
    from_adapter: Folder | None = None
    """The folder of an adapter that the run starts from. Rank, alpha, targets and kind come from the adapter; leave
    them out. `method` and `quant` are by default those of the adapter's run; other values are used with a warning. The
    folder is only read."""
    other_base: OtherBase = OtherBase.REFUSE
    """Whether `from_adapter`, or a teacher's adapter, may have been trained on another base model than the one here:
    `refuse`, or `allow` with a warning."""
    learning_rate: Annotated[float, Field(gt=0.0, le=1e30, allow_inf_nan=False), NUMBER] | Literal["auto"] = "auto"
    """The peak learning rate. `auto` derives it from the model's width, the method and the objective, and prints the
    reason."""
    lora_plus_ratio: Annotated[float, Field(ge=1.0, le=1e6, allow_inf_nan=False), NUMBER] = 1.0
    """The learning rate of B as a multiple of A's, which is `learning_rate` (LoRA+)."""
    optimizer: OptimizerName = OptimizerName.ADAMW
    """The optimiser. Its state needs, for each trained parameter, 8 bytes (`adamw`), 2 (`adamw8bit`), 4 (`lion`, `sgd`)
    or nearly none (`adafactor`). The paged ones can move their state out of the memory of a full GPU."""
    schedule: Schedule = Schedule.COSINE
    """How the learning rate changes after the warm-up."""
    warmup: Fraction = 0.03
    """The share of the steps during which the learning rate rises from 0."""
    min_rate: Fraction = 0.0
    """The learning rate that `cosine` and `linear` fall towards, as a share of the peak. The step after the last one
    would have it."""
    weight_decay: Annotated[float, Field(ge=0.0, allow_inf_nan=False), NUMBER] = 0.0
    """The decoupled weight decay of matrices, per step and unit of learning rate."""
    beta1: Fraction = 0.9
    """The decay rate of the mean gradient in AdamW and Lion, and the momentum of SGD."""
    beta2: Fraction | Literal["auto"] = "auto"
    """The decay rate of the mean squared gradient in AdamW, and of the mean that Lion keeps. `auto` is 0.999 for
    AdamW and 0.99 for Lion."""
    clip: Annotated[float, Field(ge=0.0, allow_inf_nan=False), NUMBER] = 1.0
    """The largest norm of the whole gradient (gradient clipping); 0 clips nothing."""
    skip_bad_steps: bool = False
    """Whether a bad step is skipped and counted: its loss or gradient norm is not finite, or far above those of the
    last 128 steps (six standard deviations). Three in a row end the run. By default the first step that is not finite
    ends the run, and other bad steps are made."""
    seed: Annotated[int, Field(ge=0, lt=2**31), NUMBER] = 0
    """The seed of the adapter's initialisation, of the order of the rows and of dropout."""
    lanes: Lanes | Literal["auto"] = "auto"
    """The number of lanes, a power of two: the parts that the rows of a step are divided into. They are computed one
    after another, or on at most as many processes, and their gradients are added in one fixed order, so that the number
    of processes does not change the result. `auto` is 1 for a single process, and otherwise the number of processes,
    rounded up to a power of two."""
    eval_every: Count | None = None
    """The number of steps between evaluations; a tenth of the run by default."""
    save_every: Count | None = None
    """The number of steps between checkpoints; a tenth of the run by default. The best evaluation always has one."""
    keep: Count = 2
    """The number of checkpoints that are kept, in addition to that of the best evaluation."""
    samples_every: Count | None = None
    """The number of steps between samples: a few prompts are answered, for the log and the report. Samples wait or are
    cut short if they would take more than 3 % of the run's time, and no byte of the result depends on them. By default
    there are none."""
    sample_prompts: tuple[Name, ...] = ()
    """The prompts of the samples; by default those of the first evaluation rows, or else of the first training rows."""
    best_metric: Name = "loss"
    """How the best evaluation is chosen: by the lowest `loss`, or by a metric. For preferences it is a metric of the
    objective, such as `rewards/accuracies`. With `grpo` it is `reward`, or `rewards/NAME/mean` for one of the rewards.
    With `sft` and `distillation` it is one of `exact`, `json`, `classification`, `number`, `rouge-l`, `bleu` and
    `chrf`: at every evaluation the first 128 rows are answered. With `distillation` it may also be `divergence`,
    `cross_entropy` or `agreement`. A sweep compares its points by it."""
    patience: Count | None = None
    """The number of evaluations in a row without a new best one after which the run ends (early stopping); by default
    it does not end before its last step."""
    publish: Publish = Publish.LAST
    """The weights that become the result: those after the `last` step, or those of the `best` evaluation, which come
    from its checkpoint."""
