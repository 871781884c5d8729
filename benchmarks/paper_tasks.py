"""The papers' tasks: rows to train and to score, drawn once by a seed, and the measures of generated text.

E2E (Novikova et al., 2017, arXiv:1706.09254) is the LoRA paper's own task: facts about a restaurant to a sentence, with
several references for each meaning representation (mr). Its train split is not at hand: the dev split is trained, the
test split is scored. banking77 (Casanueva et al., 2020, arXiv:2003.04807): a customer's question to one of 77 intents.
"""

from __future__ import annotations

import csv
import json
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

Row = dict[str, str]
SEED = 0
"""Of the subsets."""


class Absent(Exception):
    """Why a task cannot be run, in a sentence."""


@dataclass(frozen=True, slots=True)
class Size:
    """How much of a task is used; None is all of it."""

    train: int | None
    test: int | None
    epochs: float


@dataclass(frozen=True, slots=True)
class Task:
    """One task, ready to be compared on."""

    name: str
    says: str
    """What its rows are, in a sentence for the table."""
    train: list[Row]
    test: list[Row]
    size: Size
    measure: Callable[[Sequence[str]], dict[str, float]]
    """Measures of the answers to `test`, in order."""
    shown: tuple[str, ...]
    """Measures in the table, in order."""
    examples_per_step: int

    def write(self, folder: Path) -> tuple[Path, Path]:
        """The rows as files."""
        folder.mkdir(parents=True, exist_ok=True)
        files = folder / "train.jsonl", folder / "test.jsonl"
        for file, rows in zip(files, (self.train, self.test), strict=True):
            file.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")
        return files


def e2e(root: Path, size: Size) -> Task:
    """Restaurants: rows of the dev split; mrs of the test split, each once, with all their references."""
    train = _read(root / "e2e" / "dev.csv", "mr", "ref")
    references: dict[str, list[str]] = {}
    for row in _read(root / "e2e" / "test.csv", "mr", "ref"):
        references.setdefault(row["mr"], []).append(row["ref"])
    drawn = _drawn(sorted(references), size.test)
    asked = [references[mr] for mr in drawn]
    mean = sum(map(len, asked)) / len(asked)
    chosen = _drawn(train, size.train)
    return Task(
        name="e2e",
        says=f"{len(chosen):,} of the {len(train):,} rows of E2E's dev split trained, {len(drawn)} of the "
        f"{len(references)} mrs of its test split answered, {mean:.1f} references each on average",
        train=[_facts(row["mr"], row["ref"]) for row in chosen],
        test=[_facts(mr, references[mr][0]) for mr in drawn],
        size=size,
        measure=lambda answers: text_measures(answers, asked),
        shown=("BLEU", "chrF", "NIST", "ROUGE-L", "loss"),
        examples_per_step=8,
    )


def _facts(mr: str, ref: str) -> Row:
    return {"prompt": f"Describe this restaurant: {mr}", "completion": ref}


def banking77(root: Path, size: Size) -> Task:
    """Intents: as many rows of each as the size allows, from train and test."""
    train = _read(root / "banking77" / "train.csv", "text", "category")
    test = _read(root / "banking77" / "test.csv", "text", "category")
    chosen, asked = _by_intent(train, size.train), _by_intent(test, size.test)
    labels = [row["category"] for row in asked]
    return Task(
        name="banking77",
        says=f"{len(chosen):,} of banking77's {len(train):,} training questions trained, {len(asked):,} of its "
        f"{len(test):,} test questions answered, {len({*labels})} intents in equal parts as far as there are rows",
        train=[_intent(row) for row in chosen],
        test=[_intent(row) for row in asked],
        size=size,
        measure=lambda answers: {"accuracy": accuracy(answers, labels)},
        shown=("accuracy", "loss"),
        examples_per_step=16,
    )


def _intent(row: Row) -> Row:
    return {"prompt": f"Name the intent: {row['text']}", "completion": row["category"]}


TASKS: dict[str, Callable[[Path, Size], Task]] = {"e2e": e2e, "banking77": banking77}


def _read(path: Path, *columns: str) -> list[Row]:
    if not path.is_file():
        raise Absent(f"{path} is not there; name the folder that holds e2e/ and banking77/ by --data-root")
    with path.open(encoding="utf-8-sig", newline="") as file:
        rows = list(csv.DictReader(file))
    if not rows or not {*columns} <= rows[0].keys():
        raise Absent(f"{path} has not the columns {', '.join(columns)}")
    return rows


def _drawn(items: Sequence[Any], count: int | None) -> list[Any]:
    """So many of the items, in a random order that depends on the items alone; a longer draw begins with a shorter."""
    order = list(items)
    random.Random(SEED).shuffle(order)
    return order if count is None else order[:count]


def _by_intent(rows: Sequence[Row], count: int | None) -> list[Row]:
    """So many rows, the intents in turn, so that each has as many as another or one more."""
    if count is None:
        return list(rows)
    groups: dict[str, list[Row]] = {}
    for row in _drawn(rows, None):
        groups.setdefault(row["category"], []).append(row)
    ranked = sorted(
        ((place, name, row) for name, group in groups.items() for place, row in enumerate(group)),
        key=lambda one: one[:2],
    )
    return [row for _, _, row in ranked[:count]]


# ------------------------------------------------------------------------------------------------------------ measures


def accuracy(answers: Sequence[str], labels: Sequence[str]) -> float:
    """Share of answers that are the label, in percent."""
    return 100.0 * sum(a.strip() == b for a, b in zip(answers, labels, strict=True)) / len(labels)


def text_measures(answers: Sequence[str], references: Sequence[Sequence[str]]) -> dict[str, float]:
    """BLEU and chrF (sacrebleu's defaults, in percent), NIST-5 over sacrebleu's 13a tokens (nltk), and the mean of each
    answer's best ROUGE-L F (rouge-score, in percent); all with every reference that there is."""
    import sacrebleu
    from rouge_score.rouge_scorer import RougeScorer

    # An answer of nothing divides by zero in NIST, and counts as wrong everywhere.
    answers = [answer.strip() or "-" for answer in answers]
    # sacrebleu wants the n-th references of all answers together, None where one has fewer.
    most = max(map(len, references))
    padded: list[Any] = [[refs[n] if n < len(refs) else None for refs in references] for n in range(most)]
    scorer = RougeScorer(["rougeL"])
    rouge = [
        scorer.score_multi(list(refs), answer)["rougeL"].fmeasure
        for refs, answer in zip(references, answers, strict=True)
    ]
    return {
        "BLEU": sacrebleu.corpus_bleu(answers, padded).score,
        "chrF": sacrebleu.corpus_chrf(answers, padded).score,
        "NIST": nist(answers, references),
        "ROUGE-L": 100.0 * sum(rouge) / len(rouge),
    }


def nist(answers: Sequence[str], references: Sequence[Sequence[str]]) -> float:
    """NIST (Doddington, 2002) with n-grams up to five."""
    from nltk.translate.nist_score import corpus_nist
    from sacrebleu.tokenizers.tokenizer_13a import Tokenizer13a

    tokens = Tokenizer13a()
    found = [tokens(answer).split() for answer in answers]
    # nltk divides by the number of n-grams. Where no answer has any, they add nothing.
    longest = min(5, max(map(len, found)))
    known = [[tokens(reference).split() for reference in refs] for refs in references]
    return float(corpus_nist(known, found, n=longest))
