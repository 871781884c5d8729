"""`veneer doctor --serve`: what is printed of a folder of adapters, and the exit code."""

from __future__ import annotations

import json
import shlex
from pathlib import Path

from helpers.adapters.peft_folders import their_adapter
from helpers.processes.invoking import invoke
from veneer.adapters.files.vllm import ServerFinding, ServerVerdict
from veneer.screens.vllm import report, vllm_command


def test_the_report_names_who_is_not_served_and_gives_the_command_for_the_others() -> None:
    findings = [
        ServerFinding("a", ServerVerdict.SERVED, (), 8),
        ServerFinding("b", ServerVerdict.REFUSED, ("use_dora: DoRA is not served",), 100),
        ServerFinding("c", ServerVerdict.DEPENDS, ("lm_head",), 20),
    ]
    text = report(Path("adapters"), findings)
    assert "b: refused\n  - use_dora: DoRA is not served" in text
    assert "2 of 3 adapters" in text
    assert "vllm serve MODEL --enable-lora --max-lora-rank 32 --max-loras 2 --max-cpu-loras 2" in text
    assert "a=adapters/a" in text
    assert "b=adapters/b" not in text
    many = [ServerFinding(f"a{number}", ServerVerdict.SERVED, (), 8) for number in range(30)]
    assert "and 10 more" in vllm_command(Path("adapters"), many)


def test_the_command_line_has_the_folder_of_one_adapter_and_quotes_names(tmp_path: Path) -> None:
    folder = tmp_path / "my adapters" / "a b"
    their_adapter(target_modules=["q_proj"]).save_pretrained(folder)
    found = [ServerFinding("a b", ServerVerdict.SERVED, (), 8)]
    for given in (folder, folder.parent):
        words = shlex.split(vllm_command(given, found).replace("\\\n", ""))
        assert words[-2:] == ["--lora-modules", f"a b={folder}"]


def test_an_adapter_whose_name_or_path_has_a_mark_that_parts_both_is_json() -> None:
    """vLLM takes an item with a comma for JSON, and one with two equal signs for none (vllm/entrypoints/openai)."""
    found = [ServerFinding("01-rank=4,seed=1", ServerVerdict.SERVED, (), 8)]
    words = shlex.split(vllm_command(Path("my-sweep"), found).replace("\\\n", ""))
    assert json.loads(words[-1]) == {"name": "01-rank=4,seed=1", "path": "my-sweep/01-rank=4,seed=1"}


def test_the_command_ends_with_1_where_an_adapter_is_not_served(tmp_path: Path) -> None:
    their_adapter(target_modules=["q_proj"]).save_pretrained(tmp_path / "plain")
    done = invoke("doctor", "--serve", tmp_path)
    assert done.exit_code == 0, done.output
    assert "1 of 1 adapters" in done.output
    their_adapter(target_modules=["q_proj"], use_dora=True).save_pretrained(tmp_path / "dora")
    done = invoke("doctor", "--serve", tmp_path, "--json")
    assert done.exit_code == 1
    found = json.loads(done.stdout)
    assert {one["name"]: one["verdict"] for one in found["adapters"]} == {"dora": "refused", "plain": "served"}
    assert found["max_lora_rank"] == 8
    assert invoke("doctor", "--serve", tmp_path / "no").exit_code == 2
    assert invoke("doctor", "--serve", tmp_path, "--measure").exit_code == 2
