"""What it costs, beside tokenising, to render chat templates in a process of their own.

`python benchmarks/template_process.py MODEL ROWS.jsonl` reads and encodes the same rows two ways, many times in turn,
each in a fork of this process, which has read the model's tokenizer: with the template in its process, which starts
while the rows are read (as veneer does), and with the template in this process. A third way only tokenises what was
rendered. Everything that a way needs is counted: the start and the end of the template's process, and the import of
jinja2, which is done where templates are rendered. It prints the medians of the time that passed and of the processor
time of all processes, and the cost: the median of the first less the second of the same round, as a share of the third.
"""

from __future__ import annotations

import gc
import json
import os
import resource
import statistics
import sys
import time
from collections.abc import Callable
from typing import TypeGuard

from veneer.data.encoded import chat
from veneer.data.encoded.chat import Encoder, start_template, template_of
from veneer.data.records import read_records
from veneer.data.templates.escape import SpecialTokens
from veneer.errors import DataError
from veneer.io.checkpoint import open_checkpoint
from veneer.io.tokenizer import Tokenizer

REPETITIONS = 15


def main(model: str, rows: str) -> None:
    """Time the three ways and print their medians."""
    tokenizer = open_checkpoint(model).tokenizer()
    encoder = Encoder(tokenizer, template_of(tokenizer))
    texts = [found.text for found in encoder.traces(read_records(rows)) if is_trace(found)]
    del encoder
    chat._template.cache_clear()
    ways: dict[str, Callable[[], None]] = {
        "template in its process": lambda: encode(tokenizer, rows),
        "template in this process": lambda: encode_here(tokenizer, rows),
        "tokenising alone": lambda: tokenise(tokenizer, texts),
    }
    gc.freeze()  # a fork does not copy what it does not change
    spent: dict[str, list[tuple[float, float]]] = {name: [] for name in ways}
    for _ in range(REPETITIONS):
        for name, way in ways.items():
            spent[name].append(measured(way))
    for index, clock in enumerate(("passed", "of processors")):
        medians = [statistics.median(times[index] for times in spent[name]) for name in ways]
        for name, seconds in zip(ways, medians, strict=True):
            print(f"{name:26} {seconds:7.3f} s {clock}")
        first, second, _ = spent.values()
        cost = statistics.median(one[index] - other[index] for one, other in zip(first, second, strict=True))
        print(f"the process costs {100 * cost / medians[2]:.1f} % of tokenising")


def measured(way: Callable[[], None]) -> tuple[float, float]:
    """What passed and what the processors took in a fork that goes one way."""
    reading, writing = os.pipe()
    if (child := os.fork()) == 0:
        begun, before = time.perf_counter(), processor_time()
        way()
        chat._template.cache_clear()  # ends the process, whose time counts from then on
        os.write(writing, json.dumps([time.perf_counter() - begun, processor_time() - before]).encode())
        os._exit(0)
    os.close(writing)
    with os.fdopen(reading) as pipe:
        passed, used = json.load(pipe)
    os.waitpid(child, 0)
    return passed, used


def processor_time() -> float:
    """Seconds that this process and its ended children have used."""
    used = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(one.ru_utime + one.ru_stime for one in used)


def encode(tokenizer: Tokenizer, rows: str) -> None:
    """As training does."""
    start_template(tokenizer)
    records = read_records(rows)
    for found in Encoder(tokenizer, template_of(tokenizer)).traces(records):
        assert not isinstance(found, DataError)


def encode_here(tokenizer: Tokenizer, rows: str) -> None:
    """The same rows without the process: what is rendered is handed to the same code."""
    from veneer.data.templates.spans import TurnFinder
    from veneer.data.templates.template import ChatTemplate

    records = read_records(rows)
    encoder = Encoder(tokenizer, template_of(tokenizer))
    specials = SpecialTokens(tokenizer.special_tokens, tokenizer.aliases)
    finder = TurnFinder(ChatTemplate(tokenizer.chat_template or "", bos_token=tokenizer.bos_token), specials)
    for record in records:
        guarded = specials.guard(record.messages, record.tools)
        encoder._trace_chat(record, guarded, *finder.find(guarded, record.untrained))


def tokenise(tokenizer: Tokenizer, texts: list[str]) -> None:
    """The tokenizer alone, on texts that are rendered already."""
    for text in texts:
        tokenizer.encode_with_offsets(text)


def is_trace(found: chat.Trace | DataError) -> TypeGuard[chat.Trace]:
    """Every row is taken."""
    assert isinstance(found, chat.Trace)
    return True


if __name__ == "__main__":
    main(*sys.argv[1:])
