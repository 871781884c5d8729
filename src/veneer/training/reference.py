"""The reference of a run's objective: computed before the first step by the model that is about to be trained.

The reference is the model as the run starts, or the base with the adapter off; both are there before anything is
trained, so that no second model is loaded and none is held. The rows are met in the micro-batches of the first steps,
in evaluation mode: a fresh adapter's answers have the log-probabilities of the reference.

What was computed is kept in the run's folder (8 bytes an answer) under a digest of all that it depends on: the base,
the adapter that the run starts from, the rows as tokens, and how they are laid and computed. A resumed run takes it
from there.
"""

from __future__ import annotations

import hashlib
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from veneer.enums import ReferencePolicy
from veneer.events import Note, Stage, Subscriber
from veneer.hardware import processor
from veneer.io.files import atomic_file, sampled_digest
from veneer.model.language import LanguageModel
from veneer.model.mode import evaluation_mode
from veneer.out_of_memory import out_of_memory_while
from veneer.strict_json import to_text
from veneer.training.from_adapter import adapter_digests
from veneer.training.objective import hidden_states
from veneer.training.objectives.choose import needs_reference
from veneer.training.objectives.documents import log_probabilities
from veneer.training.objectives.reference import ReferenceTable
from veneer.training.session import RunInputs
from veneer.training.steps import lanes_in
from veneer.training.trainable import AdapterTraining, Trainable

DOING = "computing the reference's log-probabilities"
VALUES, KEY = "values", "key"


def reference_of(inputs: RunInputs, model: LanguageModel, trainable: Trainable, emit: Subscriber) -> ReferenceTable:
    """The reference's log-probabilities of the rows that the run trains and evaluates.

    Args:
        inputs: the run.
        model: as the run starts.
        trainable: the part that is trained.
        emit: told how far it is.

    Raises:
        OutOfMemory: a micro-batch does not fit.
        OutputError: the file cannot be written.
    """
    data = inputs.data
    table = ReferenceTable.empty(len(data.rows.train) + len(data.rows.eval))
    if not needs_reference(inputs.config.objective):
        return table
    file, key = inputs.folder.reference_file, _key(inputs, model)
    _read(file, key, table, emit)
    batches = table.missing([*data.steps.first_pass(), *data.steps.evaluation()])
    if not batches:
        return table
    without: AbstractContextManager[None] = nullcontext()
    if inputs.config.dpo.reference is ReferencePolicy.BASE and isinstance(trainable, AdapterTraining):
        without = trainable.adapter.disabled()
    with (
        Stage(emit, DOING, total=len(batches), unit="micro-batches") as stage,
        out_of_memory_while(DOING),
        evaluation_mode(model),
        torch.no_grad(),
        without,
    ):
        for batch in batches:
            hidden = hidden_states(model, batch)
            table.put(batch, log_probabilities(hidden, model.lm_head, model.spec.scores, batch))
            stage.advance()
    with atomic_file(file) as partial:
        save_file({VALUES: torch.from_numpy(table.values)}, partial, metadata={KEY: key})
    return table


def _key(inputs: RunInputs, model: LanguageModel) -> str:
    """A digest of all that the log-probabilities depend on, to the bit."""
    config, data = inputs.config, inputs.data
    start = config.dpo.reference is ReferencePolicy.START
    found: dict[str, Any] = {
        "model": sampled_digest(inputs.origin.files()),
        "adapter": adapter_digests(config) if start else {},
        "lora": config.lora.model_dump(mode="json") if start else {},
        "reference": config.dpo.reference.value,
        "rows": data.rows.digest(),
        "method": config.method.value,
        "quant": config.quant.model_dump(mode="json"),
        "products": config.compute.products.value,
        "steps": [config.train.seed, config.train.examples_per_step, config.train.tokens_per_step],
        "micro-batch": [config.compute.micro_batch_tokens, lanes_in(config.train)],
        "computed": [str(model.dtype), processor(model.device), torch.get_num_threads(), torch.__version__],
    }
    return hashlib.blake2b(to_text(found, sort_keys=True).encode(), digest_size=16).hexdigest()


def _read(file: Path, key: str, table: ReferenceTable, emit: Subscriber) -> None:
    """Fill the table from a file that was written under this key, if there is one."""
    if not file.is_file():
        return
    try:
        with safe_open(file, framework="pt", device="cpu") as stored:
            same, values = (stored.metadata() or {}).get(KEY) == key, stored.get_tensor(VALUES).numpy()
    except (SafetensorError, OSError) as error:
        emit(Note(message=f"{file} is damaged ({error}): the log-probabilities are computed again"))
        return
    if same and values.shape == table.values.shape and values.dtype == np.float64:
        table.values[:] = values
