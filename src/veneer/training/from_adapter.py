"""A run that starts from an adapter (`train.from_adapter`).

Rank, alpha, targets and kind come from the adapter. So does the form of the base, unless the run sets it. The run
itself decides how the adapter is trained (dropout, the trained factors, the optimiser). Veneer's starts never change
the base (docs/design.md), so an adapter that began as PiSSA, OLoRA, EVA or LoftQ is a plain one and can be trained
further. PEFT subtracts some starts from the base at every loading; the update then differs from the adapter's files,
and training cannot continue from it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from enum import Enum
from pathlib import Path
from typing import Any

from torch import Tensor

from veneer.adapters.adapter import Adapter
from veneer.adapters.files.origin import BaseCheck
from veneer.adapters.files.peft_config import SAVE_CONVERTED, is_plain
from veneer.adapters.files.store import (
    CONFIG_FILE,
    TOKENIZER_FILE,
    WEIGHTS_FILE,
    check_expressions,
    config_warnings,
    has_own_tokens,
    held_names,
    read_any_spec,
)
from veneer.adapters.files.tensor_spec import spec_of_tensors
from veneer.adapters.layers.experts import refuse_router_biases, refuse_single_experts, target_paths
from veneer.adapters.layers.score import SCORE_WEIGHT
from veneer.adapters.load import tensors_to_go_on_from
from veneer.adapters.overflow import check_updates
from veneer.adapters.spec import LoraSpec
from veneer.adapters.targets import EMBEDDING, HEAD, selects, unusable
from veneer.backends.base import Description
from veneer.config import RunConfig
from veneer.enums import Init, ObjectiveName, OtherBase, Task
from veneer.errors import AdapterError, ConfigError, listing, reading
from veneer.events import Level, Note, Subscriber
from veneer.io.checkpoint import Checkpoint
from veneer.io.digests import file_digest
from veneer.loading.base_form import form_of
from veneer.model.language import LanguageModel
from veneer.run_folder import recorded_run

CHOOSING = ("target_modules", "exclude_modules", "layers_to_transform")
"""The settings that choose the layers with an update, as `selects` takes them."""
START = "and the run starts at the adapter's weights"
"""The part of the error about a start (`lora.init`) that is given in addition to an adapter."""


@dataclass(frozen=True, slots=True)
class StartAdapter:
    """The adapter that a run starts from, with its configuration at the time when the run was prepared."""

    folder: Path
    spec: LoraSpec

    @classmethod
    def of(cls, config: RunConfig, description: Description) -> StartAdapter | None:
        """The adapter that a run starts from; None if it starts from no adapter.

        Raises:
            AdapterError: it cannot be read, or is of a kind that the run cannot train further.
            ModelError: the tokenizer in its folder, or that of the model, is damaged.
        """
        if config.train.from_adapter is None:
            return None
        folder = Path(config.train.from_adapter)
        spec = read_any_spec(folder)
        if spec.task is Task.SEQ_CLS and config.objective is not ObjectiveName.REWARD:
            raise AdapterError(
                f"{folder} is the adapter of a reward model, which writes no text: only objective reward continues "
                f"from it, and this is objective {config.objective.value}; give another adapter, or start one without "
                "train.from_adapter"
            )
        _refuse_kinds(spec, folder, description)
        return cls(folder, spec)

    def settles(self, config: RunConfig, description: Description) -> RunConfig:
        """The run with the settings of the adapter.

        Raises:
            ConfigError: settings of the run differ from the adapter's (all are named with both values), or the record
                of the adapter's run is damaged.
        """
        own, section = _settings(self.spec), config.lora
        given = {name: getattr(section, name) for name in own if name in section.model_fields_set}
        if _same_layers(own, own | given, [EMBEDDING, *target_paths(description.linears, description.spec), HEAD]):
            given = {name: value for name, value in given.items() if name not in CHOOSING}
        differing = [
            f"lora.{name}: {_shown(value)} here, {START if name == 'init' else f'{_shown(own[name])} in the adapter'}"
            for name, value in given.items()
            if value != own[name] and value != "auto"
        ]
        if differing:
            raise ConfigError(
                f"the run starts from {self.folder}, whose settings differ:\n{listing(differing)}\n"
                "Leave these settings out, or start a new adapter without train.from_adapter."
            )
        return config.changed("lora", own).model_copy(update=_base_settings(config, self.folder))

    def warn_of_other_form(self, config: RunConfig, emit: Subscriber) -> None:
        """Warn if the base is held in another form than the one that the adapter's run recorded.

        Args:
            config: the configuration with the adapter's settings, for a base whose files are not quantised.
            emit: receives the warning.

        Raises:
            ConfigError: the record of the adapter's run is damaged.
        """
        recorded = recorded_run(self.folder)
        if recorded is None:
            return
        before, now = (form_of(run.method, run.quant).text or "not quantised" for run in (recorded, config))
        if before != now:
            message = (
                f"the base is not held as it was when {self.folder} was trained ({now} here, {before} then), so this "
                "run does not start where that one ended; leave out method (--method) and quant to keep the old form"
            )
            emit(Note(message=message, level=Level.WARNING))

    def as_found(self, spec: LoraSpec, config: RunConfig, description: Description) -> LoraSpec:
        """The adapter of the run by whole paths: the tensors of the adapter that it starts from show what it has.

        Names in its configuration may mean other layers: PEFT ignores names that match nothing, and takes `norm` for
        every norm. They were resolved when the adapter was made.

        Args:
            spec: the adapter by its names.

        Raises:
            AdapterError: the names of its tensors cannot be read, or it updates layers that the model does not have.
        """
        folder = self.folder
        names, paths = held_names(folder), target_paths(description.linears, description.spec)
        check_expressions(spec, [*paths, *names], folder)
        if description.spec.mixture is not None:
            refuse_single_experts(names, folder)
            refuse_router_biases(names, folder)
        # PEFT ties nothing if the model does not.
        tied = spec.tied_modules and description.spec.tied_head
        trained = spec_of_tensors(names, replace(spec, tied_modules=tied), folder)
        strange = [path for path in trained.target_modules if path not in {EMBEDDING, HEAD, *paths}]
        if strange:
            raise AdapterError(
                f"{folder} does not fit the model {config.model}, which has no such layers:\n{listing(strange)}\n"
                f"Use it with the base model that it was trained on (see base_model_name_or_path in its {CONFIG_FILE})."
            )
        return trained

    def tensors(self, model: LanguageModel) -> dict[str, Tensor]:
        """The adapter's weights.

        Args:
            model: the base without an adapter; copies of its embeddings in the adapter's files are compared with it.

        Raises:
            AdapterError: the weights cannot be read, or training on this model cannot continue from them.
        """
        return tensors_to_go_on_from(model, self.folder, self.spec)

    def given_to(self, adapter: Adapter, tensors: Mapping[str, Tensor]) -> Adapter:
        """Load the weights that `tensors` has read into a run's adapter.

        Returns:
            The adapter, to be saved with the names of the adapter that it starts from.

        Raises:
            AdapterError: the weights do not belong to this adapter.
        """
        given = dict(tensors)
        if adapter.score is not None and SCORE_WEIGHT not in given:
            # An adapter of a language model becomes that of a reward model, whose head is new.
            given[SCORE_WEIGHT] = adapter.score.weight.detach().cpu()
        check_updates(given, adapter.spec.scale_of, str(self.folder / WEIGHTS_FILE))
        adapter.load(given)
        own = self.spec
        named = replace(
            adapter.spec,
            target_modules=own.target_modules,
            exclude_modules=own.exclude_modules,
            layers_to_transform=own.layers_to_transform,
            rank_pattern=own.rank_pattern,
            alpha_pattern=own.alpha_pattern,
        )
        return replace(adapter, spec=named)


def _base_settings(config: RunConfig, folder: Path) -> dict[str, Any]:
    """The settings of the base's form that the run does not set, as the adapter's run recorded them."""
    recorded = recorded_run(folder)
    if recorded is None:
        return {}
    held = form_of(recorded.method, recorded.quant)
    followed: dict[str, Any] = {} if "method" in config.model_fields_set else {"method": held.method}
    if held.quant is not None and not config.quant.model_fields_set:
        followed["quant"] = held.quant
    return followed


def _same_layers(own: Mapping[str, Any], given: Mapping[str, Any], paths: Sequence[str]) -> bool:
    """Whether two groups of settings choose the same ones of a model's layers. Expressions that cannot be used choose
    none."""
    values = [settings[name] for settings in (own, given) for name in CHOOSING[:2]]
    if unusable(tuple(value for value in values if isinstance(value, str)), (), tuple(paths)):
        return False
    one, other = (
        [selects(path, *(settings[name] for name in CHOOSING)) for path in paths] for settings in (own, given)
    )
    return one == other


def _shown(value: object) -> str:
    return repr(value.value if isinstance(value, Enum) else value)


def _settings(spec: LoraSpec) -> dict[str, Any]:
    """The adapter as settings of the section `lora`."""
    return {
        "rank": spec.rank,
        "alpha": spec.alpha,
        "target_modules": spec.target_modules,
        "exclude_modules": spec.exclude_modules,
        "layers_to_transform": spec.layers_to_transform,
        "rank_pattern": dict(spec.rank_pattern),
        "alpha_pattern": dict(spec.alpha_pattern),
        "scaling": spec.scaling,
        "variant": spec.variant,
        "bias": spec.bias,
        "modules_to_save": spec.modules_to_save,
        "init": Init.KAIMING,
        "trainable_tokens": (),
        "new_tokens": (),
    }


def _refuse_kinds(spec: LoraSpec, folder: Path, description: Description) -> None:
    """Refuse an adapter with parts that a run cannot train further.

    Raises:
        AdapterError: it has such parts; all are named.
    """
    # Most adapters have no tokenizer beside them, and the model's takes a moment to read.
    own_tokens = (folder / TOKENIZER_FILE).is_file() and has_own_tokens(folder, description.tokenizer())
    kinds = {
        f"init_lora_weights {spec.init.value!r}: PEFT subtracts its start from the base at every loading; "
        f"{SAVE_CONVERTED}": not is_plain(spec),
        "lora_bias: a bias of the factor B, which veneer does not train": spec.factor_bias,
        "trained tokens: their rows are not settings of the run": bool(spec.trainable_tokens),
        f"{TOKENIZER_FILE}: tokens of its own": own_tokens,
    }
    present = [text for text, is_present in kinds.items() if is_present]
    if present:
        raise AdapterError(f"training cannot continue from {folder}:\n{listing(present)}")


def check_start_adapters_base(config: RunConfig, origin: Checkpoint, emit: Subscriber) -> None:
    """Refuse a base that differs from that of the adapter that the run starts from, or warn about it if it was allowed.
    Also warn about settings in the adapter's configuration that have no effect.

    Raises:
        AdapterError: the base differs; the files that differ are named.
    """
    if config.train.from_adapter is None:
        return
    folder = Path(config.train.from_adapter)
    for warning in config_warnings(folder, read_any_spec(folder)):
        emit(Note(message=warning, level=Level.WARNING))
    problem = BaseCheck(folder, config.model, origin.files()).problem()
    refuse_other_base(problem, config, "Give the adapter's own base by --model, start a new adapter", emit)


def refuse_other_base(problem: str | None, config: RunConfig, remedy: str, emit: Subscriber) -> None:
    """Refuse an adapter that a run reads and that was trained on another base, or warn about it if it was allowed.

    Args:
        problem: the problem that `BaseCheck` found; None if it is the adapter's base.
        config: the run.
        remedy: another thing that the user can do, as the beginning of a sentence.
        emit: receives the warning.

    Raises:
        AdapterError: the base differs.
    """
    if problem is None:
        return
    if config.train.other_base is OtherBase.REFUSE:
        raise AdapterError(f"{problem}\n{remedy}, or --allow-other-base (train.other_base=allow) if this one is meant.")
    emit(Note(message=problem, level=Level.WARNING))


def adapter_digests(config: RunConfig) -> dict[str, str]:
    """The SHA-256 of the files of the adapter that a run starts from, by name; empty if it starts from no adapter.

    Raises:
        AdapterError: a file cannot be read.
    """
    if config.train.from_adapter is None:
        return {}
    folder = Path(config.train.from_adapter)
    with reading(AdapterError):
        return {name: file_digest(folder / name) for name in (CONFIG_FILE, WEIGHTS_FILE)}
