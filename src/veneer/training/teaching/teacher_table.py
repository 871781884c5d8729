"""A teacher's predictions for every supervised token of a run, computed once: its k likeliest tokens and the rest.

The teacher is loaded before the student, computes, and is freed before the student is loaded, so that the two are never
in memory together. Its predictions are kept in the run's folder under a digest of everything that they depend on, and a
resumed run reads them from there. In memory and on the disk they need 8 bytes for each of the k tokens of a supervised
token.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from veneer.data.micro_batches.batches import MicroBatch
from veneer.data.rows import Rows
from veneer.events import Stage, Subscriber
from veneer.gpu.transfer import sent
from veneer.io.digests import sampled_digest
from veneer.losses.scores import COMPARED_ROWS
from veneer.machine.hardware import processor, resolve_device, resolve_dtype
from veneer.machine.out_of_memory import out_of_memory_while
from veneer.processes.group import Group
from veneer.training.folder.keyed_tensors import key_of, read_under, write_under
from veneer.training.memory_use.out_of_memory import release_memory
from veneer.training.objectives.divergences import Taught, TaughtRows, with_rest
from veneer.training.run_inputs import RunInputs
from veneer.training.steps import lanes_in
from veneer.training.teaching.live_teacher import LiveTeacher, load_teacher
from veneer.training.teaching.teacher import teacher_digests

TAUGHT = "taught"
"""The key with which rank 0 reports that the teacher has been asked."""
DOING = "computing what the teacher says"
TOKENS, VALUES, KNOWN = "tokens", "values", "known"


@dataclass(frozen=True, slots=True)
class TaughtTable:
    """The teacher's predictions, by the place of an example in the run (`Teacher`)."""

    tokens: Tensor
    """The likeliest tokens, int32 `[targets, k]`."""
    values: Tensor
    """Their log-probabilities, and that of all others together, float32 `[targets, k + 1]`."""
    starts: NDArray[np.int64]
    """The first target of each example, followed by the number of all targets, `[examples + 1]`."""
    known: NDArray[np.bool_]
    """Whether an example has been computed, `[examples]`."""
    compared: int
    """The number of tokens whose probabilities are compared."""
    device: torch.device

    @classmethod
    def empty(cls, rows: Rows, top_k: int, compared: int, device: torch.device) -> TaughtTable:
        """A table that knows no predictions yet."""
        counts = [int(example.loss_mask[1:].sum()) for part in (rows.train, rows.eval) for example in part]
        starts = np.concatenate(([0], np.cumsum(np.array(counts, dtype=np.int64))))
        targets = int(starts[-1])
        return cls(
            torch.zeros(targets, top_k, dtype=torch.int32),
            torch.full((targets, top_k + 1), torch.nan),
            starts,
            np.zeros(len(counts), dtype=np.bool_),
            compared,
            device,
        )

    def of(self, batch: MicroBatch) -> TaughtRows:
        """The teacher's predictions for the supervised tokens of a micro-batch."""
        places = self._places(batch)

        def taught(some: slice) -> Taught:
            own = places[some]
            return Taught(
                sent(self.values[own], self.device), sent(self.tokens[own].to(torch.int64), self.device), self.compared
            )

        return taught

    def put(self, batch: MicroBatch, taught: TaughtRows) -> None:
        """Store a teacher's predictions for a micro-batch, given for all compared tokens."""
        places = self._places(batch)
        for start in range(0, len(places), COMPARED_ROWS):
            some = slice(start, start + COMPARED_ROWS)
            every = taught(some).log_probabilities
            likeliest = every.topk(self.tokens.shape[1], dim=-1).indices
            self.tokens[places[some]] = likeliest.to("cpu", torch.int32)
            self.values[places[some]] = with_rest(every, likeliest).float().cpu()
        self.known[list(batch.numbers)] = True

    def unknown(self, numbers: Iterable[int]) -> int:
        """How many of these examples are not known; duplicates count once."""
        return int((~self.known[[*set(numbers)]]).sum())

    def _places(self, batch: MicroBatch) -> Tensor:
        spans = (np.arange(self.starts[number], self.starts[number + 1]) for number in batch.numbers)
        return torch.from_numpy(np.concatenate([*spans]))


def taught_table(inputs: RunInputs, emit: Subscriber, group: Group) -> TaughtTable | None:
    """The teacher's predictions for the rows of a run; None if its teacher computes during the steps. Rank 0 asks the
    teacher, and the others wait for the answers without a time limit.

    Args:
        inputs: the run, whose model is not loaded yet.
        emit: receives the progress.
        group: the connected processes of the run.

    Raises:
        OutOfMemory: the teacher or a micro-batch does not fit.
        OutputError: the file cannot be written.
    """
    config, settings = inputs.config, inputs.config.distillation
    if inputs.prepared.taught is None or settings.top_k is None:
        return None
    device = resolve_device(config.compute.device)
    table = TaughtTable.empty(inputs.data.rows, settings.top_k, inputs.prepared.taught, device)
    if group.ranks.first:
        _ask(inputs, table, emit)
        group.publish(TAUGHT, "ready")
    else:
        group.awaited(TAUGHT)
    for part in (table.tokens, table.values, torch.from_numpy(table.known.view(np.uint8))):
        group.broadcast(part)
    return table


def _ask(inputs: RunInputs, table: TaughtTable, emit: Subscriber) -> None:
    """Fill in the teacher's predictions, as far as possible from the file of an earlier session."""
    config, settings = inputs.config, inputs.config.distillation
    file, key = inputs.folder.teacher_file, _key(inputs)
    _read(file, key, table, emit)
    unknown = table.unknown(inputs.data.met())
    if not unknown:
        return
    with out_of_memory_while("loading the teacher"):
        model = load_teacher(config, emit)
    teacher = LiveTeacher(model, table.compared, settings.temperature)
    with Stage(emit, DOING, total=unknown, unit="rows") as stage, out_of_memory_while(DOING):
        for batch in inputs.data.packed.unmet(table.unknown):
            new = table.unknown(batch.numbers)
            table.put(batch, teacher.of(batch))
            stage.advance(new)
    del teacher, model
    release_memory(table.device)
    _write(file, key, table)


def _key(inputs: RunInputs) -> str:
    """A digest of everything that the table depends on."""
    config, settings = inputs.config, inputs.config.distillation
    device = resolve_device(config.compute.device)
    depends_on = {
        "teacher": teacher_digests(config),
        "model": None if settings.teacher is not None else sampled_digest(inputs.origin.files()),
        "rows": inputs.data.rows.digest(),
        "settings": [settings.top_k, settings.temperature, config.method.value, config.quant.model_dump(mode="json")],
        "steps": [config.train.seed, config.train.examples_per_step, config.train.tokens_per_step],
        "lanes": lanes_in(config.train),
        "computed": [
            config.compute.micro_batch_tokens, str(resolve_dtype(config.compute.dtype, device)), processor(device),
            torch.get_num_threads(), torch.__version__,
        ],
    }  # fmt: skip
    return key_of(depends_on)


def _write(file: Path, key: str, table: TaughtTable) -> None:
    tensors = {TOKENS: table.tokens, VALUES: table.values, KNOWN: torch.from_numpy(table.known)}
    write_under(file, key, tensors)


def _read(file: Path, key: str, table: TaughtTable, emit: Subscriber) -> None:
    """Load the predictions of a file that was written under this key, if there is one."""
    stored = read_under(file, key, (TOKENS, VALUES, KNOWN), "what the teacher says is", emit)
    if stored is not None:
        table.tokens.copy_(stored[TOKENS])
        table.values.copy_(stored[VALUES])
        table.known[:] = stored[KNOWN].numpy()
