"""What the documents say is true: the settings are those of the code, the README's Python runs, its commands exist."""

from __future__ import annotations

import ast
import dataclasses
import json
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import click
import pytest
import yaml
from click.testing import CliRunner
from peft import LoraConfig
from transformers import TrainingArguments

from helpers.models.tiny import rows, run_config, write_rows
from test_architecture import LAYERS
from veneer.cli import main
from veneer.config import known_keys, parse
from veneer.config.migration import counterpart
from veneer.config.values import override
from veneer.data.lint.registry import RULES
from veneer.enums import ObjectiveName
from veneer.errors import ConfigError
from veneer.training.recommend import RATE_SHARES
from veneer.training.run import train

ROOT = Path(__file__).parents[1]
PAGES = {
    path.relative_to(ROOT).as_posix(): path.read_text(encoding="utf-8")
    for path in (*sorted(ROOT.glob("*.md")), *sorted((ROOT / "docs").glob("*.md")))
    if path.name != "CHANGELOG.md"
}
"""Every page by its path; the changelog names what once was."""
README = PAGES["README.md"]
QUESTIONS = ("choosing", "models", "memory", "speed", "answers", "using", "adapters")
"""Pages of `docs/` that answer a question, by commands that can be tried."""


def test_the_configuration_page_is_made_from_the_code() -> None:
    made = subprocess.run(
        [sys.executable, str(ROOT / "docs" / "make_configuration.py")], capture_output=True, text=True, check=True
    ).stdout
    assert made == (ROOT / "docs" / "configuration.md").read_text(encoding="utf-8"), "run `make docs`"


def test_the_page_on_data_lists_every_rule() -> None:
    page = (ROOT / "docs" / "data.md").read_text(encoding="utf-8")
    lines = {f"| `{r.name}` | {r.severity.value} | {r.cost.value} | {r.summary} |" for r in RULES.values()}
    table = page.partition("## What is checked?")[2].partition("##")[0]
    assert {line for line in table.splitlines() if line.startswith("| `")} == lines, "run `make docs`"


def test_the_page_on_choosing_has_the_share_of_the_rate_of_every_objective() -> None:
    rows = re.findall(r"^\| (`.*`) \| ([\d.]+) \|$", PAGES["docs/choosing.md"], re.M)
    told = {name: float(share) for names, share in rows for name in re.findall(r"`(\w+)`", names)}
    assert told == {objective.value: RATE_SHARES.get(objective, (1.0, ""))[0] for objective in ObjectiveName}


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


# ------------------------------------------------------------------------------------------------------ links and keys


def anchors(text: str) -> set[str]:
    """The anchors that a forge makes of the headings of a page."""
    headings = re.findall(r"^#+ (.+)$", re.sub(r"```.*?```", "", text, flags=re.S), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("page", PAGES)
def test_the_links_of_a_page_lead_somewhere(page: str) -> None:
    dead = []
    for link in re.findall(r"\]\(([^)\s]+)\)", PAGES[page]):
        if link.startswith("https://"):
            continue
        name, _, anchor = link.partition("#")
        target = (ROOT / page).parent / name if name else ROOT / page
        if not target.exists() or (anchor and anchor not in anchors(target.read_text(encoding="utf-8"))):
            dead.append(link)
    assert dead == []


@pytest.mark.parametrize("page", PAGES)
def test_the_settings_that_a_page_names_exist(page: str) -> None:
    named = set(re.findall(r"(?<![\w./])((?:data|lora|quant|train|compute)\.[a-z_]+)(?![\w./(])", PAGES[page]))
    refused = {"lora.r", "train.eval_steps"} if page == "docs/coming-from.md" else set()
    files = {name for name in named if name.endswith((".md", ".jsonl"))}
    assert named - set(known_keys()) - files == refused


def test_every_page_stands_in_the_index() -> None:
    index = PAGES["docs/README.md"]
    assert [page for page in PAGES if page.startswith("docs/") and f"({Path(page).name})" not in index] == [
        "docs/README.md"
    ]


def test_the_table_of_layers_is_that_of_the_tests() -> None:
    table = PAGES["docs/design.md"].split("## Layers")[1].split("\n\n")[2]
    named = {name.rstrip("/") for name in re.findall(r"`([\w/]+)`", table)}
    assert named == {part for layer in LAYERS for part in layer} - {"__main__", "__init__"}


# ------------------------------------------------------------------------------------------------------------ commands


def commands(page: str) -> list[list[str]]:
    """The arguments of every `veneer` command in a page's shell blocks."""
    lines = "\n".join(re.findall(r"```(?:sh|bash)\n(.*?)```", PAGES[page], re.S)).replace("\\\n", " ").splitlines()
    words = [shlex.split(line, comments=True) for line in lines]
    return [line[1:] for line in words if line and Path(line[0]).name == "veneer"]


@pytest.mark.parametrize("page", [page for page in PAGES if commands(page)])
def test_the_commands_of_a_page_have_the_options_that_they_are_given(page: str) -> None:
    for verb, *arguments in commands(page):
        command = main.commands[verb]
        # With the program's own settings: click keeps a command's help option from the first time that it is asked for.
        context = click.Context(command, **main.context_settings)
        given, _, _ = command.make_parser(context).parse_args(arguments)
        base = {"model": "MODEL", "output": "run", "data": {"file": "rows.jsonl", "held_out": 0.1}}
        parse(override(base, given.get("assignments") or []), where=f"{page}: {verb}")


@pytest.mark.slow
@pytest.mark.parametrize("page", ["README.md", *(f"docs/{name}.md" for name in QUESTIONS)])
def test_the_commands_of_a_page_run(
    page: str, tiny_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    write_rows(tmp_path / "rows.jsonl", rows(24))
    write_rows(tmp_path / "test.jsonl", rows(4, seed=1))
    # What waits for a terminal, downloads, or is tried by the README's page already.
    left = {"quickstart", "chat"} | ({"compare"} if page != "README.md" else set())
    found = [line for line in commands(page) if line[0] not in left]
    if not any(line[0] == "train" and "my-adapter" in line for line in found):
        train(run_config(tiny_model, Path("rows.jsonl"), Path("my-adapter"), "train.steps=2", "data.held_out=0.1"))
    for line in found:
        arguments = [str(tiny_model) if word == "MODEL" else word for word in line]
        done = CliRunner().invoke(main, arguments)
        # `veneer data` says by 1 that it found something in these rows.
        assert done.exit_code in ((0, 1) if line[0] == "data" else (0,)), (line, done.output)


@pytest.mark.slow
def test_the_python_example_of_using_a_result_elsewhere_runs(tiny_model: Path, tmp_path: Path) -> None:
    (code,) = re.findall(r"```python\n(.*?)```", PAGES["docs/using.md"], re.S)
    write_rows(tmp_path / "rows.jsonl", rows(12))
    train(run_config(tiny_model, tmp_path / "rows.jsonl", tmp_path / "my-adapter", "train.steps=2"))
    script = code.replace('"MODEL"', json.dumps(str(tiny_model)))
    done = subprocess.run(
        [sys.executable, "-c", script], cwd=tmp_path, capture_output=True, text=True, check=False,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr


# -------------------------------------------------------------------------------------------------------- coming from


COMING_FROM = PAGES["docs/coming-from.md"]


@pytest.mark.parametrize("number", range(4))
def test_our_side_of_a_comparison_with_another_library_is_a_configuration(number: int) -> None:
    blocks = re.findall(r"```yaml\n(.*?)```", COMING_FROM, re.S)
    assert len(blocks) == 4
    parse(yaml.safe_load(blocks[number]), where="docs/coming-from.md")


@pytest.mark.parametrize("library", ["axolotl", "llamafactory"])
def test_their_configuration_is_refused_with_all_of_its_keys(library: str) -> None:
    (block,) = re.findall(rf"```yaml {library}\n(.*?)```", COMING_FROM, re.S)
    theirs = yaml.safe_load(block)
    with pytest.raises(ConfigError) as caught:
        parse(theirs, where="config.yaml")
    assert [key for key in theirs if f"\n  - {key}: unknown key" not in str(caught.value)] == []


def test_their_side_gives_no_argument_that_transformers_and_peft_no_longer_have() -> None:
    known = {
        kind.__name__: {field.name for field in dataclasses.fields(kind)} for kind in (LoraConfig, TrainingArguments)
    }
    known["SFTConfig"] = known.pop("TrainingArguments") | {"max_length", "assistant_only_loss", "model_init_kwargs"}
    calls = [
        (node.func.id, node.keywords)
        for block in re.findall(r"```python\n(.*?)```", COMING_FROM, re.S)
        for node in ast.walk(ast.parse(block))
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in known
    ]
    assert {name for name, _ in calls} == known.keys()
    assert [one.arg for name, given in calls for one in given if one.arg not in known[name]] == []


def test_every_setting_of_their_side_has_a_counterpart() -> None:
    theirs = {key for block in re.findall(r"```yaml \w+\n(.*?)```", COMING_FROM, re.S) for key in yaml.safe_load(block)}
    for block in re.findall(r"```python\n(.*?)```", COMING_FROM, re.S):
        theirs |= {node.arg for node in ast.walk(ast.parse(block)) if isinstance(node, ast.keyword) and node.arg}
    known = {key.rpartition(".")[2] for key in known_keys()}
    assert len(theirs) > 40
    # Arguments of load_dataset and of SFTTrainer that hold no setting.
    assert {name for name in theirs - known if counterpart([name]) is None} == {"split", "args"}
