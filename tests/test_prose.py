"""Words: docstrings, help texts and field descriptions begin with their subject, and a class name means one class."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import click
import pytest
from pydantic import BaseModel

from helpers.source_trees import trees, trees_kept
from veneer import config
from veneer.cli import main

ROOT = Path(__file__).parents[1]
FRAGMENT = re.compile(r"(Of|The same)\b")
TORN = re.compile(r"^\s+\w+(?:, \w+)*: (?:of|told|whose|who|that|by which|with which|in which) .*$", re.MULTILINE)
"""An entry of `Args:` that can be read only together with the name before it: `folder: of the run.`"""


@pytest.fixture(scope="module", autouse=True)
def kept() -> Iterator[None]:
    with trees_kept():
        yield


def docstrings(tree: ast.Module) -> Iterator[tuple[int, str]]:
    """Line and text of every string that stands alone: docstrings of modules, classes, functions and fields."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant) and isinstance(node.value.value, str):
            yield node.lineno, node.value.value.strip()


def fragments(tree: ast.Module) -> list[str]:
    """Docstrings that begin with `Of` or `The same`."""
    return [f"{line}: {text.splitlines()[0]}" for line, text in docstrings(tree) if FRAGMENT.match(text)]


def test_docstrings_begin_with_their_subject() -> None:
    assert [f"{path}:{fragment}" for path, tree in trees().items() for fragment in fragments(tree)] == []


def test_entries_are_noun_phrases_by_themselves() -> None:
    torn = [
        f"{path}: {entry.strip()}"
        for path, tree in trees().items()
        for _, text in docstrings(tree)
        for entry in TORN.findall(text)
    ]
    assert torn == []


def options(command: click.Command) -> Iterator[tuple[str, str]]:
    """Name and help text of every option of a command, and of the commands below it."""
    for parameter in command.params:
        if isinstance(parameter, click.Option):
            yield f"{command.name} {parameter.opts[0]}", parameter.help or ""
    if isinstance(command, click.Group):
        for child in command.commands.values():
            yield f"{child.name}", child.help or ""
            yield from options(child)


def test_help_texts_begin_with_their_subject() -> None:
    found = dict(options(main))
    assert len(found) > 30
    assert [f"{name}: {text}" for name, text in found.items() if FRAGMENT.match(text.strip())] == []


def test_descriptions_of_settings_begin_with_their_subject() -> None:
    models = [kind for kind in vars(config).values() if isinstance(kind, type) and issubclass(kind, BaseModel)]
    found = {
        f"{model.__name__}.{name}": field.description or ""
        for model in models
        for name, field in model.model_fields.items()
    }
    assert len(found) > 40
    wrong = {name for name, text in found.items() if FRAGMENT.match(text.strip())}
    assert wrong == set()


def test_a_class_name_means_one_class() -> None:
    places: dict[str, list[str]] = {}
    for path, tree in trees().items():
        for node in ast.walk(tree):
            if isinstance(node, ast.ClassDef) and not node.name.startswith("_"):
                places.setdefault(node.name, []).append(path)
    twice = {name: paths for name, paths in places.items() if len(paths) > 1}
    assert twice == {}


def test_asserts_only_tell_types() -> None:
    """`python -O` leaves asserts out: they may say what type something has, and must check no input."""
    found = []
    for path, tree in trees().items():
        for node in ast.walk(tree):
            if not isinstance(node, ast.Assert):
                continue
            calls = [ast.unparse(part.func) for part in ast.walk(node.test) if isinstance(part, ast.Call)]
            if set(calls) - {"isinstance"} or not (calls or isinstance(node.test, ast.Compare)):
                found.append(f"{path}:{node.lineno}: {ast.unparse(node)}")
    assert found == []


def test_the_rules_would_notice() -> None:
    tree = ast.parse('"""Of the draws."""\nx: int\n"""The same again."""\ny: int\n"""Often right."""')
    assert [line.split(":")[0] for line in fragments(tree)] == ["1", "3"]
