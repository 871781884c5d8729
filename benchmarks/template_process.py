"""What it costs, beside tokenising, to render chat templates in a process of their own.

`python benchmarks/template_process.py MODEL ROWS.jsonl` encodes the same rows three ways, several times in turn, each
in a program of its own that has read model and rows before its clock starts: with the template in its process (as
veneer does), with the template in this process, and only tokenising what was rendered. Everything that a way needs is
counted: the start and the end of the template's process, and the import of jinja2, which is done where templates are
rendered. It prints the medians of the time that passed and of the processor time of both processes, and the cost: the
median of the first less the second of the same round, as a share of the third.
"""

from __future__ import annotations

import json
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Callable

from veneer.data import chat
from veneer.data.chat import Encoder, template_of
from veneer.data.escape import SpecialTokens
from veneer.data.records import Record, read_records
from veneer.errors import DataError
from veneer.io.checkpoint import open_checkpoint
from veneer.io.tokenizer import Tokenizer

REPETITIONS = 7


def main(model: str, rows: str) -> None:
    """Time the three ways and print their medians."""
    spent: dict[str, list[tuple[float, float]]] = {name: [] for name in WAYS}
    for _ in range(REPETITIONS):
        for name in WAYS:
            done = subprocess.run([sys.executable, __file__, model, rows, name], stdout=subprocess.PIPE, check=True)
            spent[name].append(json.loads(done.stdout))
    for index, clock in enumerate(("passed", "of processors")):
        medians = [statistics.median(times[index] for times in spent[name]) for name in WAYS]
        for name, seconds in zip(WAYS, medians, strict=True):
            print(f"{name:26} {seconds:7.3f} s {clock}")
        first, second, _ = (spent[name] for name in WAYS)
        cost = statistics.median(one[index] - other[index] for one, other in zip(first, second, strict=True))
        print(f"the process costs {100 * cost / medians[2]:.1f} % of tokenising")


def measure(model: str, rows: str, name: str) -> None:
    """Time one way once, and print what passed and what the processors took, as JSON."""
    tokenizer, records = open_checkpoint(model).tokenizer(), read_records(rows)
    tokenizer.encode_with_offsets("The tokenizer makes its tables at its first use.")
    way = WAYS[name](tokenizer, records)
    begun, before = time.perf_counter(), processor_time()
    way()
    chat._template.cache_clear()  # ends the process, whose time counts from then on
    print(json.dumps([time.perf_counter() - begun, processor_time() - before]))


def processor_time() -> float:
    """Seconds that this process and its ended children have used."""
    used = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(one.ru_utime + one.ru_stime for one in used)


def encode(tokenizer: Tokenizer, records: list[Record]) -> Callable[[], None]:
    """As training does."""

    def run() -> None:
        for found in Encoder(tokenizer, template_of(tokenizer)).traces(records):
            assert not isinstance(found, DataError)

    return run


def encode_here(tokenizer: Tokenizer, records: list[Record]) -> Callable[[], None]:
    """The same rows without the process: what is rendered is handed to the same code."""

    def run() -> None:
        from veneer.data.spans import TurnFinder
        from veneer.data.template import ChatTemplate

        encoder = Encoder(tokenizer, template_of(tokenizer))
        specials = SpecialTokens(tokenizer.special_tokens, tokenizer.aliases)
        finder = TurnFinder(ChatTemplate(tokenizer.chat_template or "", bos_token=tokenizer.bos_token), specials)
        for record in records:
            guarded = specials.guard(record.messages, record.tools)
            encoder._trace_chat(record, guarded, *finder.find(guarded, record.untrained))

    return run


def tokenise(tokenizer: Tokenizer, records: list[Record]) -> Callable[[], None]:
    """The tokenizer alone, on texts that are rendered already."""
    texts = [found.text for found in Encoder(tokenizer, template_of(tokenizer)).traces(records) if is_trace(found)]
    chat._template.cache_clear()

    def run() -> None:
        for text in texts:
            tokenizer.encode_with_offsets(text)

    return run


def is_trace(found: chat.Trace | DataError) -> bool:
    """Every row is taken."""
    assert isinstance(found, chat.Trace)
    return True


WAYS = {"template in its process": encode, "template in this process": encode_here, "tokenising alone": tokenise}


if __name__ == "__main__":
    (measure if len(sys.argv) > 3 else main)(*sys.argv[1:])
