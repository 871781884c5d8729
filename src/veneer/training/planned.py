"""A run's plan, made from its encoded rows before any weight is read."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import torch

from veneer.adapters.spec import LoraSpec
from veneer.backends.choose import backend_of, check_hf
from veneer.config import ComputeSection, RunConfig, read_yaml
from veneer.data.rows import Rows, load_rows
from veneer.enums import Backend, Dtype, Method, Recompute
from veneer.errors import ConfigError
from veneer.hardware import resolve_device, resolve_dtype
from veneer.io.checkpoint import describe
from veneer.io.model_files import recorded_dtype
from veneer.io.prequantised import described_quantisation
from veneer.load import linear_paths, refuse_training
from veneer.model.hf_skeleton import HfSpec, make_skeleton
from veneer.model.spec import DecoderSpec, spec_from_hf
from veneer.planning.choose import device_bytes, limit_of
from veneer.planning.estimate import Estimate, estimate, hf_linears
from veneer.planning.plan import Plan, make_plan
from veneer.planning.setup import BatchShape, Setup
from veneer.planning.time import Rate, card, probe, published
from veneer.training.recommend import settle, settle_over
from veneer.training.steps import PackedSteps, examples_per_step

NO_FILE = "-"
"""`data.file` of a configuration that is only planned, over rows that are supposed."""


def planned(
    config: RunConfig,
    rows: Rows,
    spec: DecoderSpec,
    device: torch.device,
    recorded: Path | None = None,
    *,
    stored: bool = False,
    files: torch.dtype | None = None,
) -> tuple[RunConfig, Plan]:
    """The configuration with micro-batch and recomputation chosen, and the plan.

    Args:
        config: the run.
        rows: encoded.
        spec: of the model.
        device: where it runs.
        recorded: the `config.yaml` of the run that is gone on with: what was chosen then is used again, so that
            another machine's memory never changes a result.
        stored: whether the model's files are quantised already, as `config.quant` says.
        files: what they hold, where that is known.

    Raises:
        ConfigError: it does not fit the limit, whatever is chosen.
    """
    compute = config.compute if recorded is None else _as_recorded(config.compute, recorded)
    dtype = resolve_dtype(compute.dtype, device)
    setup = Setup.of(config, spec, dtype, device.type, torch.get_num_threads(), stored=stored, files=files)
    source = PackedSteps(rows.train, config, by_length=spec.by_length)
    evaluated = rows.longest_eval

    def cut_for(tokens: int) -> BatchShape:
        return replace(source.cut(tokens), evaluated=evaluated)

    plan = make_plan(
        setup,
        compute,
        source.longest,
        cut_for,
        limit_of(compute, device_bytes(device)),
        steps=source.total,
        rate=probe,
    )
    if plan.refusal is not None:
        raise ConfigError(plan.refusal)
    chosen = {
        "micro_batch_tokens": plan.choice.micro_batch_tokens,
        "recompute": Recompute.LAYERS if plan.choice.recompute else Recompute.NEVER,
    }
    return config.model_copy(update={"compute": compute.model_copy(update=chosen)}), plan


def estimated(
    config: RunConfig,
    rows: Rows,
    spec: HfSpec,
    device: torch.device,
    recorded: Path | None = None,
    *,
    stored: bool = False,
) -> tuple[RunConfig, Estimate]:
    """The same for a model that transformers computes; nothing is refused for its memory."""
    compute = config.compute if recorded is None else _as_recorded(config.compute, recorded)
    source = PackedSteps(rows.train, config)
    found = estimate(
        spec,
        LoraSpec.of(config.lora, tied=spec.tied_head),
        config.quant if stored or config.method is Method.QLORA else None,
        compute,
        source.longest,
        source.cut,
        limit_of(compute, device_bytes(device)),
        dtype=resolve_dtype(compute.dtype, device),
        device=device.type,
    )
    if found.recompute and not spec.recomputable:
        raise ConfigError(
            f"compute.recompute layers: transformers cannot compute the layers of {spec.model_type} again; take never"
        )
    chosen = {
        "micro_batch_tokens": found.micro_batch_tokens,
        "recompute": Recompute.LAYERS if found.recompute else Recompute.NEVER,
    }
    return config.model_copy(update={"compute": compute.model_copy(update=chosen)}), found


@dataclass(frozen=True, kw_only=True, slots=True)
class Expected:
    """Rows that are only supposed."""

    rows: int = 1000
    tokens: int = 512
    """Of a row, on average."""
    longest: int = 512


def plan_of(config: RunConfig, device: str, expected: Expected) -> Plan:
    """The plan of `config` on any device, from the model's configuration alone.

    Args:
        config: the run; where `data.file` is empty, `expected` stands for the rows.
        device: as `compute.device`, or a card of `veneer.planning.time.CARDS`.
        expected: rows to suppose.

    Raises:
        VeneerError: something that is named does not exist, or cannot be used.
    """
    model = describe(config.model, revision=config.revision)
    spec = spec_from_hf(model.config)
    stored = described_quantisation(model.config, linear_paths(spec))
    if stored is not None:
        if config.method is Method.FULL:
            refuse_training(config.model, stored.scheme)
        config = config.model_copy(update={"quant": stored})
    rate: Callable[[Setup], Rate] = probe
    here = re.fullmatch(r"auto|cpu|cuda(:[0-9]+)?", device) is not None
    if here:
        place = resolve_device(device)
        kind, dtype, total = place.type, resolve_dtype(config.compute.dtype, place), device_bytes(place)
    else:
        named = card(device)
        kind, total, rate = "cuda", named.memory, published(named)
        dtype = torch.float32 if config.compute.dtype is Dtype.FLOAT32 else torch.bfloat16
    rows = None
    if config.data.file != NO_FILE:
        rows = load_rows(config.data, model.tokenizer(), lambda message: None)
        config, _ = settle(config, spec, len(rows.train), rows.completion_tokens)
    else:
        config, _ = settle(config, spec, expected.rows, expected.rows * expected.tokens)
    threads = config.compute.threads or torch.get_num_threads()
    files = recorded_dtype(model.config)
    setup = Setup.of(config, spec, dtype, kind, threads, stored=stored is not None, files=files)
    limit = limit_of(config.compute, total)
    if rows is not None:
        source = PackedSteps(rows.train, config, by_length=spec.by_length)
        return make_plan(setup, config.compute, source.longest, source.cut, limit, steps=source.total, rate=rate)
    in_step = examples_per_step(config.train)
    if in_step is None:
        in_step = max(1, (config.train.tokens_per_step or 1) // expected.tokens)
    in_step = min(in_step, expected.rows)
    steps = config.train.steps or max(1, round((config.train.epochs or 1.0) * -(-expected.rows // in_step)))

    def cut_for(tokens: int) -> BatchShape:
        return BatchShape.of_rows(expected.tokens, tokens, in_step, longest=expected.longest)

    return make_plan(setup, config.compute, expected.longest, cut_for, limit, steps=steps, rate=rate)


def estimate_of(config: RunConfig, device: str, expected: Expected) -> Estimate | None:
    """What `plan_of` would say, where transformers computes the model: an estimate; None where a plan can be made.

    Raises:
        VeneerError: as `plan_of`.
    """
    model = describe(config.model, revision=config.revision)
    if backend_of(model.config, config.backend) is Backend.VENEER:
        return None
    config = config.model_copy(update={"backend": Backend.HF})
    check_hf(config)
    here = re.fullmatch(r"auto|cpu|cuda(:[0-9]+)?", device) is not None
    place = resolve_device(device) if here else torch.device("cuda")
    total = device_bytes(place) if here else card(device).memory
    dtype = resolve_dtype(config.compute.dtype, place) if here else torch.bfloat16
    spec = make_skeleton(model.config, dtype).spec
    source = None
    count, completion, longest = expected.rows, expected.rows * expected.tokens, expected.longest
    if config.data.file != NO_FILE:
        rows = load_rows(config.data, model.tokenizer(), lambda message: None)
        source = PackedSteps(rows.train, config)
        count, completion, longest = len(rows.train), rows.completion_tokens, source.longest
    config, _ = settle_over(config, spec, lambda lora: hf_linears(spec, lora), count, completion)
    supposed = examples_per_step(config.train) or 1
    return estimate(
        spec,
        LoraSpec.of(config.lora, tied=spec.tied_head),
        config.quant if config.method is Method.QLORA else None,
        config.compute,
        longest,
        lambda tokens: (
            source.cut(tokens) if source else BatchShape.of_rows(expected.tokens, tokens, supposed, longest=longest)
        ),
        limit_of(config.compute, total),
        dtype=dtype,
        device=place.type,
    )


def _as_recorded(compute: ComputeSection, recorded: Path) -> ComputeSection:
    saved = read_yaml(recorded).get("compute", {})
    left_open = {
        key: saved[key]
        for key in ("micro_batch_tokens", "recompute")
        if key in saved and getattr(compute, key) in ("auto", Recompute.AUTO)
    }
    return ComputeSection.model_validate({**compute.model_dump(), **left_open})
