"""What the documents say is true: the settings are those of the code, the README's Python runs, its commands exist."""

from __future__ import annotations

import ast
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from tiny import rows, write_rows
from veneer.cli import main
from veneer.config import known_keys, parse
from veneer.data.lint.registry import RULES
from veneer.migration import counterpart

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")


def test_the_configuration_page_is_made_from_the_code() -> None:
    made = subprocess.run(
        [sys.executable, str(ROOT / "docs" / "make_configuration.py")], capture_output=True, text=True, check=True
    ).stdout
    assert made == (ROOT / "docs" / "configuration.md").read_text(encoding="utf-8"), "run `make docs`"


def test_the_page_on_data_lists_every_rule() -> None:
    page = (ROOT / "docs" / "data.md").read_text(encoding="utf-8")
    lines = {f"| `{r.name}` | {r.severity.value} | {r.cost.value} | {r.summary} |" for r in RULES.values()}
    assert {line for line in page.splitlines() if line.startswith("| `")} == lines, "run `make docs`"


def test_the_readme_lists_every_command_and_no_other() -> None:
    section = README.split("## Commands")[1].split("###")[0]
    assert set(re.findall(r"`veneer (\w+)`", section)) == set(main.commands)


def test_the_python_example_of_the_readme_runs(tiny_model: Path, tmp_path: Path) -> None:
    (code,) = re.findall(r"```python\n(.*?)```", README, re.S)
    write_rows(tmp_path / "rows.jsonl", rows(12))
    write_rows(tmp_path / "test.jsonl", rows(3))
    script = code.replace('"MODEL"', json.dumps(str(tiny_model)))
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, "-c", script], cwd=tmp_path, env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert "loss" in done.stdout
    assert (tmp_path / "my-adapter" / "adapter_model.safetensors").is_file()


@pytest.mark.parametrize("link", re.findall(r"\]\(([^)#]+)\)", README))
def test_the_links_of_the_readme_lead_somewhere(link: str) -> None:
    assert link.startswith("https://") or (ROOT / link).exists()


COMING_FROM = (ROOT / "docs" / "coming-from.md").read_text(encoding="utf-8")


@pytest.mark.parametrize("number", range(4))
def test_our_side_of_a_comparison_with_another_library_is_a_configuration(number: int) -> None:
    blocks = re.findall(r"```yaml\n(.*?)```", COMING_FROM, re.S)
    assert len(blocks) == 4
    parse(yaml.safe_load(blocks[number]), where="docs/coming-from.md")


def test_every_setting_of_their_side_has_a_counterpart() -> None:
    theirs = {key for block in re.findall(r"```yaml \w+\n(.*?)```", COMING_FROM, re.S) for key in yaml.safe_load(block)}
    for block in re.findall(r"```python\n(.*?)```", COMING_FROM, re.S):
        theirs |= {node.arg for node in ast.walk(ast.parse(block)) if isinstance(node, ast.keyword) and node.arg}
    known = {key.rpartition(".")[2] for key in known_keys()}
    assert len(theirs) > 40
    # Arguments of load_dataset and of SFTTrainer that hold no setting.
    assert {name for name in theirs - known if counterpart([name]) is None} == {"split", "args"}
