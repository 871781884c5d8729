"""The benchmark's own arithmetic: what it counts, how it reports, and that nothing that failed goes missing."""

import argparse
import io
import json
import sys
from pathlib import Path

import pytest

from veneer.native import library
from veneer.native.build import VARIANTS

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"
# Scripts, not a package.
sys.path.insert(0, str(BENCHMARKS))
try:
    import compare
    import floor
    from peers import launch, measure
finally:
    sys.path.remove(str(BENCHMARKS))

LLAMA = {
    "hidden_size": 8,
    "intermediate_size": 20,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "vocab_size": 50,
}


def run(tokens_per_second, rss=1000.0, tokens=(9, 100, 100), floor_share=None):
    """A run whose first step took for ever."""
    seconds = [1e6] + [count / tokens_per_second for count in tokens[1:]]
    steps = [
        measure.Step(wall=wall, cpu=2 * wall, tokens=count, supervised=1, loss=1.0)
        for wall, count in zip(seconds, tokens, strict=True)
    ]
    more = {} if floor_share is None else {"floor": [floor_share * wall for wall in seconds[1:]]}
    return launch.Run(measure.Record(steps=steps, peak_rss_mb=rss, versions={"a": "1"}, more=more), None)


def entry(*speeds, **more):
    """An entry with a run for each speed."""
    return compare.Entry(runs=[run(speed, **more) for speed in speeds])


def results():
    """Three rounds of all systems."""
    return {
        "LoRA": {
            "veneer": entry(400, 600, 500, rss=900.0, floor_share=0.7),
            "TRL+PEFT": entry(100, 100, 120),
            "Unsloth": entry(200, 250, 260),
        },
        "QLoRA": {"veneer": entry(450, rss=800.0), "TRL+PEFT": entry(90), "Unsloth": entry(150)},
    }


def test_the_first_step_is_not_counted_and_rounds_give_medians():
    one = results()["LoRA"]["veneer"].median()

    assert one.tokens_per_second == pytest.approx(500)
    assert one.tokens_per_cpu_second == pytest.approx(250)
    assert one.floor == pytest.approx(0.7)


def test_the_last_line_has_every_ratio():
    assert compare.ratios(results()) == (
        "ratios: LoRA 2.0x Unsloth, 5.0x TRL+PEFT; QLoRA 3.0x Unsloth, 5.0x TRL+PEFT; QLoRA/LoRA 0.90; "
        "peak RSS 0.90x/0.80x Unsloth; floor 70 %"
    )


def test_a_peer_that_failed_is_named():
    made = results()
    made["LoRA"]["Unsloth"] = compare.Entry(problems=["cannot be installed: no wheel"])

    assert compare.ratios(made).startswith("ratios: LoRA Unsloth not run, 5.0x TRL+PEFT; QLoRA 3.0x Unsloth")
    assert "peak RSS" not in compare.ratios(made)
    screen = compare.Console(width=120, file=io.StringIO())
    args = argparse.Namespace(rounds=1, steps=2, rows_per_step=8, threads=2, dtype="bfloat16", variant=None)
    compare.show(made, args, screen)
    assert "Unsloth, LoRA, not run: cannot be installed: no wheel" in screen.file.getvalue()
    assert "computed in bfloat16, instructions: the processor's own" in screen.file.getvalue()


def test_without_veneers_run_the_line_says_nothing_of_it():
    made = results()
    made["LoRA"]["veneer"] = compare.Entry(problems=["no memory"])

    line = compare.ratios(made)

    assert line == "ratios: LoRA veneer not run; QLoRA 3.0x Unsloth, 5.0x TRL+PEFT"


def test_systems_that_count_other_tokens_are_reported():
    made = results()
    made["QLoRA"]["Unsloth"] = entry(150, tokens=(9, 100, 101))

    assert compare.disagreements(results()) == []
    assert compare.disagreements(made) == [
        "QLoRA: tokens of the steps are [9, 100, 101] in Unsloth, [9, 100, 100] in veneer"
    ]


def test_everything_can_be_written_as_json():
    args = argparse.Namespace(rounds=3, steps=2, rows_per_step=8, threads=2, data=None, dtype="float32", variant="avx2")

    values = json.loads(json.dumps(compare.plain(results(), args)))

    assert [one["system"] for one in values["results"]] == ["veneer", "TRL+PEFT", "Unsloth"] * 2
    assert values["ratios"] == compare.ratios(results())
    assert (values["settings"]["dtype"], values["settings"]["variant"]) == ("float32", "avx2")


def test_the_floor_counts_every_product():
    tokens, supervised, rank = 7, 3, 2
    shapes = [(8, 8), (8, 4), (8, 4), (8, 8), (8, 20), (8, 20), (20, 8)]
    base = sum(2 * tokens * a * b for a, b in shapes)
    low_rank = sum(2 * tokens * rank * (a + b) for a, b in shapes)
    head = 2 * 2 * supervised * 8 * 50
    # The first layer's q, k and v need no gradient of their input: neither W's product nor A's.
    unneeded = sum(2 * tokens * (a * b + rank * a) for a, b in shapes[:3])

    counts = floor.products(LLAMA, rank, tokens, supervised)

    assert sum(product.flops * count for product, count in counts.items()) == (
        2 * (2 * base + 3 * low_rank) + head - unneeded
    )


def test_the_floor_times_each_shape_once():
    asked = []

    def measured(product):
        asked.append(product)
        return 1.0

    total = floor.floor_seconds(LLAMA, 2, [(7, 3), (7, 3)], measured)

    assert len(asked) == len(set(asked))
    assert total == 2 * sum(floor.products(LLAMA, 2, 7, 3).values())
    assert floor.seconds(asked[0], rounds=1) > 0


def test_rows_are_conversations_of_which_the_last_turn_trains(tmp_path):
    user, answer = {"role": "user", "content": "q"}, {"role": "assistant", "content": "a"}
    expected = {"prompt": [user], "completion": [answer]}

    assert launch.conversation({"question": "q", "answer": "a"}) == expected
    assert launch.conversation({"messages": [user, answer]}) == expected
    with pytest.raises(ValueError, match="text"):
        launch.conversation({"text": "q"})

    data = tmp_path / "data.jsonl"
    data.write_text('{"question": "q", "answer": "a"}\n')
    rows = launch.write_rows(data, 1, tmp_path / "build" / "rows.jsonl")
    assert measure.read_rows(rows) == [expected]
    with pytest.raises(ValueError, match="has 1 rows; 2 are needed"):
        launch.write_rows(data, 2, rows)


def test_the_bundled_rows_will_do():
    with launch.BUNDLED_DATA.open(encoding="utf-8") as file:
        assert launch.conversation(json.loads(next(file)))["completion"][0]["role"] == "assistant"


def test_a_task_survives_the_command_line(tmp_path):
    task = measure.Task(
        model=Path("model"),
        rows=Path("rows.jsonl"),
        steps=3,
        rows_per_step=2,
        threads=1,
        quantized=True,
        result=tmp_path / "result.json",
        adapter=Path("adapter"),
        dtype="float32",
        variant="avx2",
    )

    assert measure.parse_task(None, measure.arguments(task)) == task


def test_a_record_survives_its_file(tmp_path):
    record = run(100, floor_share=0.5).record

    measure.write_record(tmp_path / "record.json", record)

    assert measure.read_record(tmp_path / "record.json") == record
    assert measure.peak_rss_mb() > 1


def test_every_variant_of_the_kernels_can_be_held_by_all():
    assert set(launch.HELD) == set(VARIANTS["x86_64"])


def test_the_dtype_suits_the_instructions(monkeypatch):
    assert [compare.suitable_dtype(one) for one in launch.HELD] == ["float32", "float32", "bfloat16"]
    monkeypatch.setattr(library, "runnable_variants", lambda: ("avx2",))
    assert compare.suitable_dtype(None) == "float32"
    monkeypatch.setattr(library, "runnable_variants", lambda: ())
    assert compare.suitable_dtype(None) == "float32"


def test_a_process_is_held_to_the_instructions(tmp_path):
    code = "import os; print(os.environ['ATEN_CPU_CAPABILITY'], os.environ['ONEDNN_MAX_CPU_ISA'])"
    launch._call([sys.executable, "-c", code], tmp_path / "log", held=launch.HELD["avx2"])
    assert (tmp_path / "log").read_text() == "avx2 AVX2\n"


def test_the_reason_is_the_line_that_names_an_error():
    assert launch.reason("a\nValueError: wrong\n") == "ValueError: wrong"
    assert launch.reason("ERROR: no matching distribution\n\nhint\n") == "ERROR: no matching distribution"
    assert launch.reason("killed\n") == "killed"
    assert launch.reason("") == "it failed without a word"


def test_a_command_that_fails_is_unavailable_with_its_reason(tmp_path):
    with pytest.raises(launch.Unavailable, match="RuntimeError: no luck"):
        launch._call([sys.executable, "-c", "raise RuntimeError('no luck')"], tmp_path / "log")
    with pytest.raises(launch.Unavailable, match="cannot be started"):
        launch._call([str(tmp_path / "absent")], tmp_path / "log")
