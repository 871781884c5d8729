from __future__ import annotations

from pathlib import Path

import pytest

from helpers.models.tiny import rows, run_config, write_rows
from veneer.assistant.load import open_assistant
from veneer.config import ComputeSection
from veneer.enums import Dtype
from veneer.errors import ConfigError
from veneer.evaluation.divergence import row_divergences
from veneer.evaluation.forgetting import RowSuite, check_suites, open_suite, suite_result
from veneer.evaluation.metrics.choose import ChosenMetrics
from veneer.evaluation.rows import RowSet
from veneer.evaluation.run import evaluate
from veneer.evaluation.statistics.measures import mean_of
from veneer.events import Event, Note, StageBegun, ignore
from veneer.training.run import train

FLOAT32 = ComputeSection(device="cpu", dtype=Dtype.FLOAT32, threads=1)


@pytest.fixture(scope="module")
def adapter(tmp_path_factory: pytest.TempPathFactory, tiny_model: Path, tiny_data: Path) -> Path:
    output = tmp_path_factory.mktemp("forgot") / "run"
    return train(run_config(tiny_model, tiny_data, output, "train.steps=30")).output


def test_suites_files_and_divergences_are_measured_in_one_loading(
    adapter: Path, tiny_model: Path, tiny_data: Path, tmp_path: Path
) -> None:
    own = write_rows(tmp_path / "own.jsonl", rows(5, seed=3))
    texts = write_rows(tmp_path / "texts.jsonl", [{"text": "a parcel is late"}, {"text": "the crate is blue"}])
    seen: list[Event] = []
    report = evaluate(
        str(tiny_model), tiny_data, adapter=adapter, compute=FLOAT32, limit=2, max_new_tokens=2,
        suites=["arithmetic", str(own), f"kl:{texts}"], suite_items=4, subscribers=[seen.append],
    )  # fmt: skip
    assert [(one.name, one.rows) for one in report.suites] == [("arithmetic", 4), (str(own), 5), (f"kl:{texts}", 2)]
    assert [one.comparison.name for one in report.suites] == ["arithmetic", "exact", "kl"]
    assert sum(isinstance(event, StageBegun) and "loading" in event.stage for event in seen) == 1
    alone = evaluate(str(tiny_model), own, adapter=adapter, compute=FLOAT32)
    assert report.suites[1].comparison == alone.comparison[0]
    assistant = open_assistant(str(tiny_model), adapter=adapter, compute=FLOAT32)
    opened = open_suite(f"kl:{texts}", 0, assistant, ignore)
    assert assistant.adapter is not None
    sums = row_divergences(assistant.model, assistant.adapter, opened.rows.examples)
    tokens = sum(example.supervised for example in opened.rows.examples)
    assert report.suites[2].comparison.difference == pytest.approx(sum(sums) / tokens)
    assert report.suites[2].comparison.base == 0.0


def test_a_gate_asks_its_suites_and_says_beforehand_what_they_cannot_tell(
    adapter: Path, tiny_model: Path, tiny_data: Path, tmp_path: Path
) -> None:
    gate = tmp_path / "gate.yaml"
    gate.write_text("metric: loss\nbetter_by: 0.1\nsuites: {arithmetic: 0.05}\nitems: 3\n")
    seen: list[Event] = []
    report = evaluate(
        str(tiny_model), tiny_data, adapter=adapter, compute=FLOAT32, max_new_tokens=2, gate=gate,
        subscribers=[seen.append],
    )  # fmt: skip
    assert report.primary == "loss"
    assert report.gate is not None
    assert [(one.name, one.verdict.value) for one in report.gate.conditions] == [
        ("loss", "held"), ("arithmetic", "undecided"),
    ]  # fmt: skip
    assert report.gate.verdict == "undecided"
    told = next(place for place, one in enumerate(seen) if isinstance(one, Note) and "needs 314 rows" in one.message)
    answered = next(
        p for p, one in enumerate(seen) if isinstance(one, StageBegun) and one.stage.startswith("answering")
    )
    assert told < answered


def test_rows_are_said_to_be_too_few_for_a_margin_of_shares_and_not_for_one_of_a_loss(
    adapter: Path, tiny_model: Path, tiny_data: Path, tmp_path: Path
) -> None:
    texts = write_rows(tmp_path / "texts.jsonl", [{"text": f"parcel {number} is late"} for number in range(5)])
    own = write_rows(tmp_path / "own.jsonl", [*rows(5, seed=3), {"text": "a row without an answer"}])
    gate = tmp_path / "gate.yaml"
    gate.write_text(f"suites: {{{texts}: 0.05, {own}: 0.05}}\n")
    seen: list[Event] = []
    report = evaluate(
        str(tiny_model), tiny_data, adapter=adapter, compute=FLOAT32, max_new_tokens=2, gate=gate,
        subscribers=[seen.append],
    )  # fmt: skip
    assert [one.comparison.name for one in report.suites] == ["loss", "exact"]
    warned = [event.message for event in seen if isinstance(event, Note) and "needs 314 rows" in event.message]
    assert [line.partition(":")[0] for line in warned] == [str(own)]
    assert "but there are 5;" in warned[0], "rows with an answer"


def test_names_that_are_nothing_are_refused_together(tiny_model: Path, tiny_data: Path) -> None:
    with pytest.raises(ConfigError) as caught:
        check_suites(["arithmetik", "absent.jsonl", "copying", "kl:absent.txt"])
    for part in ("arithmetik (did you mean 'arithmetic'?)", "absent.jsonl", "kl:absent.txt", "tools"):
        assert part in str(caught.value)
    with pytest.raises(ConfigError, match="give an adapter"):
        evaluate(str(tiny_model), tiny_data, suites=["arithmetic"])


def test_more_items_than_a_generated_suite_has_are_refused(tiny_model: Path, tiny_data: Path) -> None:
    with pytest.raises(ConfigError, match=r"--suite-items: 10,001 is too many: .* \(arithmetic, tools\) has 10,000"):
        evaluate(str(tiny_model), tiny_data, suites=["arithmetic", str(tiny_data), "tools"], suite_items=10_001)
    check_suites(["arithmetic"], 10_000)
    check_suites([str(tiny_data)], None)
    for names in ([str(tiny_data)], [f"kl:{tiny_data}"], []):
        with pytest.raises(ConfigError, match="--suite-items: 4 has no effect: there is no generated suite and"):
            check_suites(names, 4)


def test_a_suite_whose_rows_lack_the_declared_measure_stands_by_its_first_one() -> None:
    suite = RowSuite(
        "own", "rows of the user", RowSet([], [], [], 1), ChosenMetrics((), choice=False, primary="number")
    )
    base, adapter = ([mean_of("exact", values), mean_of("fields", values)] for values in ([0.0, 1.0], [1.0, 1.0]))
    found = suite_result(suite, [one for one in base if one], [[one for one in adapter if one]])
    assert (found.comparison.name, found.comparison.difference) == ("exact", 0.5)
    assert [one.name for one in found.others] == ["fields"]
