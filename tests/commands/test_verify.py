"""`veneer verify`: what is damaged, with its exit code."""

from __future__ import annotations

from pathlib import Path

from helpers.processes.invoking import invoke, refused


def test_verify_says_what_is_damaged_with_its_exit_code(adapter: Path, tmp_path: Path) -> None:
    invoke("export", "--adapter", adapter, "--output", tmp_path / "out", "--limit", 1)
    result = invoke("verify", tmp_path / "out", "--limit", 1)
    assert result.exit_code == 0, result.output
    assert "is what it was made from" in result.stdout
    with (tmp_path / "out" / "config.json").open("a") as file:
        file.write(" ")
    result = invoke("verify", tmp_path / "out", "--limit", 1)
    assert result.exit_code == 1
    assert "file config.json: has changed" in result.stderr
    assert "FAILED" in result.stdout
    assert "export.json is not there" in refused("verify", tmp_path)


def test_what_is_no_export_is_told_what_to_give(tmp_path: Path) -> None:
    file = tmp_path / "rows.jsonl"
    file.write_text("{}\n")
    nowhere = tmp_path / "nowhere"
    assert f"{nowhere} does not exist; check the path of the export" in refused("verify", nowhere)
    for path in (file, tmp_path):
        assert f"{path}/export.json is not there: give the folder that `veneer export` made" in refused("verify", path)
