"""Names of persons, by a pipeline of spaCy that marks the names that it was told of."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

from helpers.models.tiny import write_rows
from helpers.processes.invoking import invoke, refused
from helpers.support import needs
from veneer.data.lint.persons import person_pass
from veneer.enums import RowKind
from veneer.errors import ConfigError
from veneer.events import ignore

pytestmark = needs("spacy", "spaCy is not installed")


def pipeline(folder: Path, *labels: str) -> str:
    import spacy

    made = spacy.blank("en")
    ruler = made.add_pipe("entity_ruler")
    names = ("Ada Lovelace", "Alan Turing", "Grace Hopper", "Edsger Dijkstra")
    ruler.add_patterns([{"label": label, "pattern": name} for label in labels for name in names])
    made.to_disk(folder)
    return str(folder)


def test_rows_with_names_are_found_in_every_format(tmp_path: Path) -> None:
    rows = [
        {"text": "Ada Lovelace wrote to Alan Turing, Grace Hopper and Edsger Dijkstra."},
        {"broken": 1},
        {"prompt": "Who was it?", "completion": "Nobody."},
        {"messages": [{"role": "user", "content": "Who?"}, {"role": "assistant", "content": "Grace Hopper."}]},
    ]
    file = write_rows(tmp_path / "rows.jsonl", rows)
    for label in ("PERSON", "PER"):
        found = list(person_pass(pipeline(tmp_path / label, label), file, {})(ignore).findings)
        assert [number for number, _ in found] == [0, 3]
        assert found[0][1].detail == "'Ada Lovelace', 'Alan Turing', 'Grace Hopper' and 1 more"
        assert found[1][1].detail == "'Grace Hopper'"


def test_prompts_and_pairs_are_looked_through_as_their_objective_reads_them(tmp_path: Path) -> None:
    made = pipeline(tmp_path / "p", "PERSON")
    asked = write_rows(tmp_path / "asked.jsonl", [{"prompt": "Who was Ada Lovelace?"}, {"prompt": "Who?"}])
    pairs = write_rows(tmp_path / "pairs.jsonl", [{"prompt": "Who?", "chosen": "Nobody.", "rejected": "Alan Turing."}])
    assert [number for number, _ in person_pass(made, asked, {}, RowKind.PROMPTS)(ignore).findings] == [0]
    assert [number for number, _ in person_pass(made, pairs, {}, RowKind.PAIRS)(ignore).findings] == [0]
    assert list(person_pass(made, asked, {})(ignore).findings) == []
    assert [number for number, _ in person_pass(made, pairs, {})(ignore).findings] == [0]  # known by its keys


def test_the_command_reports_them_where_it_is_asked_to(tmp_path: Path) -> None:
    file = write_rows(tmp_path / "rows.jsonl", [{"text": "Ada Lovelace"}, {"text": "a parcel"}])
    plain = json.loads(invoke("data", file, "--json").stdout)
    assert plain["findings"] == []
    asked = json.loads(invoke("data", file, "--names", pipeline(tmp_path / "p", "PERSON"), "--json").stdout)
    (finding,) = asked["findings"]
    assert finding["rule"] == "person-name"
    assert [row["where"] for row in finding["rows"]] == [f"{file}:1"]
    assert "no such pipeline" in refused("data", file, "--names", tmp_path / "absent")


def test_what_knows_no_persons_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ConfigError, match=r"does not mark persons.*it marks ORG"):
        person_pass(pipeline(tmp_path / "other", "ORG"), "x", {})
    monkeypatch.setitem(sys.modules, "spacy", None)
    with pytest.raises(ConfigError, match=r"pip install 'veneer\[names\]'"):
        person_pass("x", "x", {})
