"""The teacher of a distillation before any weight is read: its model, whether it fits its student, and what it
needs."""

from __future__ import annotations

from pathlib import Path

from veneer.adapters.files.origin import BaseCheck
from veneer.adapters.files.store import CONFIG_FILE, WEIGHTS_FILE, read_spec
from veneer.adapters.spec import LoraSpec
from veneer.backends.base import Description
from veneer.backends.describe import describe_model
from veneer.config import RunConfig
from veneer.data.rows import Rows
from veneer.enums import Backend, Method, ObjectiveName
from veneer.errors import AdapterError, ConfigError, reading
from veneer.events import Subscriber
from veneer.io.checkpoint import Checkpoint, open_checkpoint, read_model_config
from veneer.io.digests import file_digest, sampled_digest
from veneer.io.tokenizer import Tokenizer
from veneer.model.shape import DecoderSpec
from veneer.planning.machine import Machine
from veneer.planning.setup import Setup, Teaching
from veneer.training.from_adapter import refuse_other_base
from veneer.training.supposed_steps import SupposedRows


def described_teacher(config: RunConfig) -> Description | None:
    """The teacher's model, from its configuration alone; None if the run has no teacher, or the teacher's base is the
    run's own.

    Raises:
        ModelError: there is no such model.
        ConfigError: veneer's own decoder does not know its architecture.
    """
    name = config.distillation.teacher
    if config.objective is not ObjectiveName.DISTILLATION or name is None:
        return None
    teacher = describe_model(read_model_config(name), Backend.AUTO)
    if not isinstance(teacher.spec, DecoderSpec):
        raise ConfigError(
            f"distillation.teacher {name} has an architecture that veneer's own decoder does not know; give another "
            "teacher"
        )
    return teacher


def check_teacher(config: RunConfig, teacher: Description, own: Description, tokenizer: Tokenizer) -> None:
    """Refuse a teacher whose predictions cannot be compared with the student's, token by token.

    Args:
        config: the run.
        teacher: the description of the teacher.
        own: the description of the run's model.
        tokenizer: the tokenizer of the run.

    Raises:
        ConfigError: the two have different tokens, or pack their rows in ways that do not fit together.
    """
    name = config.distillation.teacher
    theirs = teacher.tokenizer().backend.get_vocab(with_added_tokens=True)
    ours = tokenizer.backend.get_vocab(with_added_tokens=True)
    if theirs != ours:
        other = sum(theirs.get(text) != token for text, token in ours.items())
        raise ConfigError(
            f"distillation.teacher {name} has other tokens than {config.model}: {other:,} of {len(ours):,} have "
            "another number there, or none; probabilities are compared token by token, so both must have the same "
            "vocabulary"
        )
    if teacher.spec.by_length and not own.spec.by_length:
        raise ConfigError(
            f"distillation.teacher {name} scales its positions by the length of the whole text, and the student's rows "
            "share their beginnings; give another teacher"
        )


def check_teachers_base(config: RunConfig, origin: Checkpoint, emit: Subscriber) -> None:
    """Refuse a teacher's adapter that was trained on another base than its base here, or warn about it if it was
    allowed (`train.other_base`).

    Args:
        config: the run.
        origin: the files of the run's model.
        emit: receives the warning.

    Raises:
        AdapterError: it was trained on another base; the files that differ are named.
    """
    settings = config.distillation
    if config.objective is not ObjectiveName.DISTILLATION or settings.teacher_adapter is None:
        return
    base = origin if settings.teacher is None else open_checkpoint(settings.teacher)
    problem = BaseCheck(Path(settings.teacher_adapter), settings.teacher or config.model, base.files()).problem()
    refuse_other_base(problem, config, "Give the base of distillation.teacher_adapter by distillation.teacher", emit)


def compared_tokens(config: RunConfig, teacher: Description | None, own: int) -> int:
    """The number of tokens whose probabilities are compared, without rows of an embedding that only pad it.

    Args:
        config: the run.
        teacher: the description of the teacher; None if it is the run's own base.
        own: the number of rows of the student's embedding.

    Raises:
        ConfigError: `distillation.top_k` is not less than this number.
    """
    compared = own if teacher is None else min(own, teacher.spec.vocab_size)
    top_k = config.distillation.top_k
    if top_k is not None and top_k >= compared:
        raise ConfigError(
            f"distillation.top_k is {top_k:,} and there are {compared:,} tokens; leave it out to compare all"
        )
    return compared


def teacher_setup(config: RunConfig, own: Description, teacher: Description | None, machine: Machine) -> Setup | None:
    """The teacher of a run as a model, with its adapter if it has one; None for a run without a teacher.

    Args:
        config: the run.
        own: the run's model.
        teacher: the description of the teacher; None if it is the run's own base.
        machine: the machine that computes the run.

    Raises:
        AdapterError: the teacher's adapter cannot be read, or is not for this teacher.
    """
    settings = config.distillation
    if config.objective is not ObjectiveName.DISTILLATION:
        return None
    lora = None if settings.teacher_adapter is None else read_spec(Path(settings.teacher_adapter))
    model = own if teacher is None else teacher
    if not isinstance(model.spec, DecoderSpec):
        return None  # transformers computes the base of both: there is no exact plan
    return Setup(
        spec=model.spec,
        method=Method.QLORA if teacher_is_packed(config) else Method.LORA,
        dtype=machine.dtype,
        device=machine.device,
        threads=machine.threads,
        lora=LoraSpec(rank=1, alpha=1.0) if lora is None else lora,
        quant=config.quant if teacher is None or teacher.stored is None else teacher.stored,
        stored=model.stored is not None,
        blocks=model.blocks,
        file_bytes=model.file_bytes,
    )


def teaching(config: RunConfig, setup: Setup, rows: Rows | SupposedRows) -> Teaching:
    """The teacher of a run, for its plan.

    Args:
        config: the run.
        setup: the teacher as a model (`teacher_setup`).
        rows: the rows of the run.
    """
    settings = config.distillation
    return Teaching(
        setup=setup,
        adapted=settings.teacher_adapter is not None,
        shared=settings.teacher is None and settings.top_k is None,
        top_k=settings.top_k,
        tokens=rows.supervised_tokens,
    )


def teacher_is_packed(config: RunConfig) -> bool:
    """Whether the teacher's base is the run's own, and is quantised like the student's."""
    return config.distillation.teacher is None and config.method is Method.QLORA


def teacher_digests(config: RunConfig) -> dict[str, str]:
    """Digests of the files of a run's teacher, by their kind; empty if it has no teacher.

    Raises:
        ModelError, AdapterError: a file cannot be read.
    """
    settings, digests = config.distillation, dict[str, str]()
    if config.objective is not ObjectiveName.DISTILLATION:
        return {}
    if settings.teacher is not None:
        digests["teacher"] = sampled_digest(open_checkpoint(settings.teacher).files())
    if settings.teacher_adapter is not None:
        folder = Path(settings.teacher_adapter)
        with reading(AdapterError):
            digests |= {f"teacher's {name}": file_digest(folder / name) for name in (CONFIG_FILE, WEIGHTS_FILE)}
    return digests
