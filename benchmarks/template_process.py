"""What it costs, beside tokenising, to render chat templates in a process of their own.

`python benchmarks/template_process.py MODEL ROWS.jsonl` encodes the same rows three ways, one after the other and
several times: with the template in its process (as veneer does), with the template in this process, and only tokenising
what was rendered. It prints the medians of the time that passed and of the processor time of both processes, and the
cost: the first less the second, as a share of the third.
"""

from __future__ import annotations

import os
import statistics
import sys
import time
from collections.abc import Callable

from veneer.data import chat
from veneer.data.chat import Encoder, template_of
from veneer.data.escape import SpecialTokens
from veneer.data.records import Record, read_records
from veneer.data.spans import TurnFinder
from veneer.data.template import ChatTemplate
from veneer.errors import DataError
from veneer.io.checkpoint import open_checkpoint
from veneer.io.tokenizer import Tokenizer

REPETITIONS = 5


def main(model: str, rows: str) -> None:
    """Time the three ways and print their medians."""
    tokenizer, records = open_checkpoint(model).tokenizer(), read_records(rows)
    ways: dict[str, Callable[[], object]] = {
        "template in its process": lambda: encode(tokenizer, records),
        "template in this process": lambda: encode_here(tokenizer, records),
    }
    texts = [text for text, _ in rendered_here(tokenizer, records)]
    ways["tokenising alone"] = lambda: [tokenizer.encode_with_offsets(text) for text in texts]
    spent: dict[str, list[tuple[float, float]]] = {name: [] for name in ways}
    for _ in range(REPETITIONS):
        for name, way in ways.items():
            begun, before = time.perf_counter(), processor_time()
            way()
            chat._template.cache_clear()  # ends the process, whose time counts from then on
            spent[name].append((time.perf_counter() - begun, processor_time() - before))
    for index, clock in enumerate(("passed", "of processors")):
        medians = [statistics.median(times[index] for times in spent[name]) for name in ways]
        for name, seconds in zip(ways, medians, strict=True):
            print(f"{name:26} {seconds:7.3f} s {clock}")
        print(f"the process costs {100 * (medians[0] - medians[1]) / medians[2]:.1f} % of tokenising")


def processor_time() -> float:
    """Seconds that this process and its ended children have used."""
    times = os.times()
    return times.user + times.system + times.children_user + times.children_system


def encode(tokenizer: Tokenizer, records: list[Record]) -> None:
    """As training does, the start of the process included."""
    for found in Encoder(tokenizer, template_of(tokenizer)).traces(records):
        assert not isinstance(found, DataError)


def rendered_here(tokenizer: Tokenizer, records: list[Record]) -> list[tuple[str, list[tuple[int, int]]]]:
    """The rows' texts and trained spans, rendered in this process."""
    specials = SpecialTokens(tokenizer.special_tokens, tokenizer.aliases)
    finder = TurnFinder(ChatTemplate(tokenizer.chat_template or "", bos_token=tokenizer.bos_token), specials)
    return [finder.find(specials.guard(one.messages, one.tools), one.untrained) for one in records]


def encode_here(tokenizer: Tokenizer, records: list[Record]) -> None:
    """The same rows without the process: what is rendered is handed to the same code."""
    encoder = Encoder(tokenizer, template_of(tokenizer))
    specials = SpecialTokens(tokenizer.special_tokens, tokenizer.aliases)
    finder = TurnFinder(ChatTemplate(tokenizer.chat_template or "", bos_token=tokenizer.bos_token), specials)
    for record in records:
        guarded = specials.guard(record.messages, record.tools)
        encoder._trace_chat(record, guarded, *finder.find(guarded, record.untrained))


if __name__ == "__main__":
    main(*sys.argv[1:])
