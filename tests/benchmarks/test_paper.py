"""The papers' benchmark: its measures against values by hand, its subsets, and a whole run on a tiny model."""

import csv
import json
import math
import sys
from collections import Counter
from pathlib import Path

import pytest

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"
# Scripts, not a package.
sys.path.insert(0, str(BENCHMARKS))
try:
    import paper
    import paper_tasks
finally:
    sys.path.remove(str(BENCHMARKS))

SHARED = Path(__file__).parents[3] / "shared" / "data"
SMALL = paper_tasks.Size(train=6, test=4, epochs=1)


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    """Both data sets in small, in the shape of the real ones."""
    folder = tmp_path_factory.mktemp("data")
    mrs = [f"name[N{number}], food[F{number % 3}]" for number in range(8)]
    for split in ("dev", "test"):
        (folder / "e2e").mkdir(exist_ok=True)
        with (folder / "e2e" / f"{split}.csv").open("w", newline="", encoding="utf-8-sig") as file:
            writer = csv.writer(file)
            writer.writerow(["mr", "ref"])
            writer.writerows([mr, f"{mr[5:7]} serves food, {n}."] for mr in mrs for n in range(2))
    for split, each in (("train", 4), ("test", 3)):
        (folder / "banking77").mkdir(exist_ok=True)
        with (folder / "banking77" / f"{split}.csv").open("w", newline="") as file:
            writer = csv.writer(file)
            writer.writerow(["text", "category"])
            writer.writerows(
                [f"q {split} {intent} {n}?", f"intent_{intent}"] for intent in range(3) for n in range(each)
            )
    return folder


# ------------------------------------------------------------------------------------------------------------ measures


def test_accuracy_is_the_share_of_labels():
    assert paper_tasks.accuracy(["a", " b\n", "c", "A"], ["a", "b", "d", "a"]) == 50.0


def test_bleu_is_papineni_s_by_hand():
    # Of the first answer's n-grams 5 of 6 (one "the" is too many), 5 of 5, 3 of 4 and 1 of 3 are in a reference; the
    # second, with fewer references, is its own. The lengths are those of the closest references, 6 and 5.
    answers = ["the cat sat on the mat", "a dog barks here now"]
    references = [["the cat sat on a mat", "there is a cat on the mat"], ["a dog barks here now"]]
    precisions = [(5 + 5) / 11, (5 + 4) / 9, (3 + 3) / 7, (1 + 2) / 5]
    found = paper_tasks.text_measures(answers, references)["BLEU"]
    assert found == pytest.approx(100 * math.exp(sum(map(math.log, precisions)) / 4), abs=1e-6)


def test_perfect_answers_have_perfect_scores_whatever_their_number_of_references():
    answers = ["The Eagle is a cheap coffee shop.", "Zizzi serves Italian food near the river."]
    references = [["Eagle: cheap.", answers[0], "A shop."], [answers[1]]]
    found = paper_tasks.text_measures(answers, references)
    assert (found["BLEU"], found["chrF"], found["ROUGE-L"]) == pytest.approx((100, 100, 100))
    assert found["NIST"] > 0


def test_rouge_l_is_the_best_reference_s_by_the_longest_common_subsequence():
    # LCS of "a b c d" and "a x b d" is 3 of 4 and 4: F = 3/4. The other reference has 1 of 4 and of 2: F = 1/3.
    found = paper_tasks.text_measures(["a b c d"], [["a x b d", "d q"]])
    assert found["ROUGE-L"] == pytest.approx(75.0)


def test_nist_is_doddington_s_by_hand():
    # One answer, one reference. Information of a reference's unigram: log2(6 / count); of an n-gram: log2(count of its
    # beginning / count of it).
    reference, answer = "a b a c d e", "a b c"
    unigrams = math.log2(6 / 2) + math.log2(6 / 1) + math.log2(6 / 1)
    bigram = math.log2(2 / 1)  # "a b"; "b c" is not in the reference
    score = unigrams / 3 + bigram / 2
    beta = math.log(0.5) / math.log(1.5) ** 2
    assert paper_tasks.nist([answer], [[reference]]) == pytest.approx(score * math.exp(beta * math.log(3 / 6) ** 2))


def test_an_answer_of_nothing_is_wrong_and_no_error():
    found = paper_tasks.text_measures(["", "a b c d e"], [["x y"], ["a b c d e"]])
    assert all(math.isfinite(value) for value in found.values())
    assert found["ROUGE-L"] == pytest.approx(50.0)


# ------------------------------------------------------------------------------------------------------------- subsets


def test_e2e_asks_every_mr_once_with_all_of_its_references(root):
    task = paper_tasks.e2e(root, SMALL)
    assert len(task.train) == 6
    assert len({row["prompt"] for row in task.test}) == len(task.test) == 4
    answers = [row["completion"] for row in task.test]
    assert task.measure(answers)["BLEU"] == pytest.approx(100)
    others = [answer.replace(", 0.", ", 1.") for answer in answers]
    assert others != answers
    assert task.measure(others)["BLEU"] == pytest.approx(100)
    assert "6 of the 16 rows" in task.says
    assert "4 of the 8 mrs" in task.says
    assert "2.0 references" in task.says


def test_banking77_has_the_intents_in_equal_parts(root):
    task = paper_tasks.banking77(root, SMALL)
    assert sorted(Counter(row["completion"] for row in task.train).values()) == [2, 2, 2]
    assert sorted(Counter(row["completion"] for row in task.test).values()) == [1, 1, 2]
    assert task.measure([row["completion"] for row in task.test]) == {"accuracy": 100.0}
    assert {row["prompt"] for row in task.train}.isdisjoint(row["prompt"] for row in task.test)


def test_a_subset_is_the_same_every_time_and_begins_a_larger_one(root):
    for make in paper_tasks.TASKS.values():
        first, again = make(root, SMALL), make(root, SMALL)
        assert (first.train, first.test) == (again.train, again.test)
        larger = make(root, paper_tasks.Size(train=10, test=4, epochs=1))
        assert larger.train[:6] == first.train
        whole = make(root, paper_tasks.Size(train=None, test=None, epochs=1))
        assert len(whole.train) in (16, 12)


@pytest.mark.skipif(not SHARED.is_dir(), reason=f"the real data sets are not in {SHARED}")
def test_the_real_data_sets_are_as_the_sizes_say():
    e2e = paper_tasks.e2e(SHARED, paper.SUBSETS["e2e"])
    banking = paper_tasks.banking77(SHARED, paper.SUBSETS["banking77"])
    assert (len(e2e.train), len(e2e.test)) == (960, 150)
    assert (len(banking.train), len(banking.test)) == (2002, 462)
    assert set(Counter(row["completion"] for row in banking.train).values()) == {26}
    assert set(Counter(row["completion"] for row in banking.test).values()) == {6}


# --------------------------------------------------------------------------------------------------------- a whole run


@pytest.mark.slow
def test_a_run_on_a_tiny_model_makes_tables_claims_and_plots_and_is_not_made_again(root, tiny_model, tmp_path, capsys):
    asked = [
        "--data-root", str(root), "--output", str(tmp_path / "out"), "--model", str(tiny_model), "--methods", "lora",
        "qlora", "--seeds", "2", "--train-rows", "6", "--test-rows", "4", "--set", "compute.threads=1",
        "--tasks", "banking77",
    ]  # fmt: skip
    assert paper.main(asked) == 0
    text = (tmp_path / "out" / "paper.md").read_text()
    assert "| lora, 2 seeds | " in text
    assert "6 of banking77's 12 training questions trained, 4 of its 9 test questions" in text
    assert "- qlora against lora: accuracy" in text
    assert "![banking77" in text
    assert (tmp_path / "out" / "paper-banking77.svg").read_text().count("<circle") == 4
    values = json.loads((tmp_path / "out" / "paper.json").read_text())
    assert [one["method"] for one in values["banking77"]] == ["base", "lora", "qlora"]
    capsys.readouterr()
    assert paper.main(asked) == 0
    said = capsys.readouterr().out
    assert said.count("done before") == 5
    assert "begun" not in said


def test_where_the_data_is_not_there_it_is_said(tmp_path, capsys):
    assert paper.main(["--data-root", str(tmp_path), "--output", str(tmp_path / "out")]) == 2
    assert "name the folder that holds e2e/ and banking77/ by --data-root" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_the_docs_are_written_between_their_marks(tmp_path):
    page = tmp_path / "page.md"
    page.write_text(f"before\n{paper.BEGIN}\nold\n{paper.END}\nafter\n")
    paper.write_docs(page, "new", {"a.svg": "<svg/>"})
    assert page.read_text() == f"before\n{paper.BEGIN}\nnew\n{paper.END}\nafter\n"
    assert (tmp_path / "a.svg").read_text() == "<svg/>"
    page.write_text("no marks")
    with pytest.raises(ValueError, match="has no"):
        paper.write_docs(page, "new", {})


def test_the_page_of_quality_has_the_marks():
    page = (BENCHMARKS.parent / "docs" / "benchmarks-quality.md").read_text(encoding="utf-8")
    assert page.count(paper.BEGIN) == page.count(paper.END) == 1
