"""The command `generate`: answers one question or a file of questions."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

import click

from veneer.commands.options import (
    adapter_option,
    assistant_of,
    columns_option,
    device_option,
    devices_option,
    dtype_option,
    examples,
    held_option,
    model_option,
    on_option,
    sampling_of,
    sampling_options,
)
from veneer.commands.parameter_types import PATH, Text
from veneer.commands.processes import in_processes, refuse_processes
from veneer.commands.settings import columns_of
from veneer.text.strict_json import to_text


@click.command(
    epilog=examples(
        'generate --model MODEL --adapter my-adapter\n--prompt "Where is my parcel?"',
        "generate --model MODEL --input questions.txt --json > answers.jsonl",
        "generate --model MODEL --adapters adapters/ --input big.jsonl\n--output answers.jsonl",
    )
)
@model_option
@adapter_option
@click.option(
    "--prompt", type=Text(), help="The question. Without --prompt and --input it is read from standard input."
)
@click.option(
    "--input",
    "input_file",
    type=PATH,
    help="A text file (.txt) with one question on each line, or a data file (JSONL, JSON, CSV, Parquet) with one "
    "question in each row.",
)
@columns_option
@click.option(
    "--output",
    type=PATH,
    help="A file for the answers to --input, one line of JSON each. If the command was stopped, it resumes there. "
    "Does not go with --devices or --on.",
)
@click.option(
    "--adapters",
    type=PATH,
    help='A folder of adapters for --output: a row of --input may name one of them ("adapter": "NAME").',
)
@sampling_options(256)
@held_option(
    "By default as when the adapter was trained. With --adapters, as all adapters that the rows name were trained, "
    "if they agree; else unquantised, with a warning."
)
@device_option
@devices_option
@on_option
@dtype_option
@click.option(
    "--json",
    "as_json",
    is_flag=True,
    help="Print a line of JSON for every answer, or with --output one for the whole file.",
)
def generate(
    model: str,
    adapter: Path | None,
    prompt: str | None,
    input_file: Path | None,
    columns: str | None,
    output: Path | None,
    adapters: Path | None,
    system: str | None,
    max_new_tokens: int,
    temperature: float,
    top_p: float,
    seed: int,
    method: str | None,
    device: str,
    devices: int | None,
    on: str | None,
    dtype: str,
    as_json: bool,
) -> None:
    """Answer one question, or every question of a file.

    The answer to one question is shown as it comes. The questions of a file are answered in batches. With --output the
    answers are saved in order as they are made, and no question is answered twice.
    """
    if prompt is not None and input_file is not None:
        raise click.UsageError("give --prompt or --input, not both")
    if input_file is None and (output is not None or columns is not None):
        raise click.UsageError(f"{'--columns' if output is None else '--output'} needs --input")
    if adapters is not None and (output is None or adapter is not None):
        raise click.UsageError("--adapters needs --output, and does not go with --adapter")
    if input_file is None or output is not None:
        refuse_processes(devices, on)
    ranks = in_processes(devices, on=on)
    from veneer.assistant.questions import read_questions
    from veneer.screens import generate as screen
    from veneer.screens.loading import open_visibly

    settings = sampling_of(max_new_tokens, temperature, top_p, seed)
    if output is not None:
        screen.check_output(output)
    if input_file is not None:
        request = assistant_of(model, adapter, method, device, dtype)
        named = screen.columns_of_questions(input_file, columns_of(columns), adapter)
        # Files that cannot be read are refused before the model is loaded.
        questions = read_questions(input_file, system, named)
        if adapters is None:
            screen.refuse_adapters(input_file, questions)
        if output is not None:
            assistant = screen.open_for_rows(request, questions, adapters)
            done = screen.answer_into(
                assistant, input_file, questions, output, settings,
                system=system, adapter=adapter, adapters=adapters, columns=named,
            )  # fmt: skip
            click.echo(to_text({"output": str(output), **asdict(done)}) if as_json else screen.summary(output, done))
            return
        for question, answer, warnings in screen.answer_all(request, questions, settings, ranks, on=on):
            click.echo(_line(question, answer, warnings) if as_json else answer)
        return
    question = screen.read_question(prompt)
    assistant = open_visibly(assistant_of(model, adapter, method, device, dtype))
    echo = (lambda text: None) if as_json else (lambda text: click.echo(text, nl=False))
    answer, said = screen.answer(assistant, question, system, settings, echo)
    click.echo(_line(question, answer, assistant.warnings) if as_json else "")
    screen.say_below(said)


def _line(question: str, answer: str, warnings: Sequence[str]) -> str:
    """An answer as a line of JSON, with any doubts about it."""
    doubts = {"warnings": list(warnings)} if warnings else {}
    return to_text({"prompt": question, "answer": answer, **doubts}, ensure_ascii=False)
