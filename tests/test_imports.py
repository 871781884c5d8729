"""What is written of the package names what it has. That holds for code outside of it: also in benchmarks, in tests for
devices that are not here, and inside functions, where whoever runs them first would meet a wrong name. It holds for
sentences everywhere: docstrings, comments and pages.

Names are read from syntax trees: to import every module takes longer, and fails where a library is missing.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from functools import cache
from importlib import import_module
from pathlib import Path

import pytest

import veneer
from helpers.source_trees import SOURCE, trees_kept

ROOT = Path(__file__).parents[1]
FOLDERS = ("tests", "benchmarks", "examples", "docs", "scripts")
PAGES = (*ROOT.glob("*.md"), *(ROOT / "docs").glob("*.md"))
MEANT = {"tests/test_api.py": ["veneer.trian"]}
"""Names that are not there, and shall not be."""
NO_NAMES = ("src/veneer/x/y.py", "tests/x/test_y.py", "convert_hf_to_gguf.py", "veneer.settings.rewards")
"""What looks like the name of a file or of something in the package, and is a pattern, another project's, or a key."""
SCOPES = ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef | ast.Lambda
COMPREHENSIONS = ast.ListComp | ast.SetComp | ast.DictComp | ast.GeneratorExp


@pytest.fixture(scope="module", autouse=True)
def kept() -> Iterator[None]:
    with trees_kept():
        yield


@cache
def module_file(module: str) -> Path | None:
    """The file of a module of the package; None if there is no such module."""
    path = SOURCE.parent.joinpath(*module.split("."))
    return next((file for file in (path.with_suffix(".py"), path / "__init__.py") if file.is_file()), None)


def not_at_import(test: ast.expr) -> bool:
    """Whether a module that is imported leaves out what stands under this condition."""
    return ast.unparse(test) in ("TYPE_CHECKING", "__name__ == '__main__'")


def bound(node: ast.AST) -> Iterator[str]:
    """The names that the statements of a module bind when it is imported."""
    for child in ast.iter_child_nodes(node):
        match child:
            case ast.If(test=test) if not_at_import(test):
                continue
            case ast.AnnAssign(value=None):
                continue
            case ast.Import():
                yield from (alias.asname or alias.name.split(".")[0] for alias in child.names)
            case ast.ImportFrom():
                yield from (alias.asname or alias.name for alias in child.names)
            case ast.FunctionDef() | ast.AsyncFunctionDef() | ast.ClassDef():
                yield child.name
            case ast.Name(ctx=ast.Store()):
                yield child.id
        if not isinstance(child, SCOPES | COMPREHENSIONS):
            yield from bound(child)


@cache
def attributes(module: str) -> frozenset[str]:
    """The names at a module's top level."""
    file = module_file(module)
    assert file is not None, module
    own = frozenset(bound(ast.parse(file.read_text(encoding="utf-8"))))
    # `tests/test_api.py` tries every name that the package loads on its first use.
    return own | frozenset(veneer.__all__) if module == "veneer" else own


def exists(name: str) -> bool:
    """Whether a dotted name is that of a module, or of an attribute of one."""
    home, _, attribute = name.rpartition(".")
    return module_file(name) is not None or (module_file(home) is not None and attribute in attributes(home))


def is_member(name: str) -> bool:
    """Whether a dotted name is that of a member of a class, in the module and the class that define it."""
    home, _, member = name.rpartition(".")
    module, _, kind = home.rpartition(".")
    file = module_file(module)
    return file is not None and member in members(file).get(kind, ())


@cache
def members(file: Path) -> dict[str, set[str]]:
    """What each class of a module defines: its methods, its fields, and what it sets on itself."""
    return {
        kind.name: {*bound(kind), *assigned(kind)}
        for kind in ast.parse(file.read_text(encoding="utf-8")).body
        if isinstance(kind, ast.ClassDef)
    }


def assigned(kind: ast.ClassDef) -> Iterator[str]:
    """The fields of a class, and the attributes that its methods set on `self`."""
    for node in ast.walk(kind):
        match node:
            case ast.AnnAssign(target=ast.Name(id=name)) if node in kind.body:
                yield name
            case ast.Attribute(value=ast.Name(id="self"), attr=name, ctx=ast.Store()):
                yield name


def imported(node: ast.Import | ast.ImportFrom) -> Iterator[tuple[str, str]]:
    """The full name of each thing that a statement imports from the package, and the name that it has there."""
    for alias in node.names:
        if isinstance(node, ast.ImportFrom):
            name, own = f"{node.module}.{alias.name}", alias.asname or alias.name
        else:
            name, own = alias.name, alias.asname or alias.name.split(".")[0]
        if name.split(".")[0] == "veneer":
            yield name, own


def used(tree: ast.AST) -> Iterator[tuple[int, str]]:
    """The line and the full name of what code imports from the package, and asks of the modules that it imported."""
    nodes = list(ast.walk(tree))
    modules = {}
    for node in nodes:
        if isinstance(node, ast.Import | ast.ImportFrom):
            for name, own in imported(node):
                yield node.lineno, name
                # `import veneer.cli` binds `veneer`.
                home = "veneer" if own == "veneer" else name
                if module_file(home) is not None:
                    modules[own] = home
    for node in nodes:
        match node:
            case ast.Attribute(value=ast.Name(id=own), attr=attribute) if own in modules:
                if not attribute.startswith("__"):
                    yield node.lineno, f"{modules[own]}.{attribute}"


def missing(tree: ast.AST) -> list[tuple[int, str]]:
    """The line and the full name of what code uses of the package and is not there."""
    return [(line, name) for line, name in used(tree) if not exists(name)]


@pytest.mark.parametrize("folder", FOLDERS)
def test_code_outside_of_the_package_names_what_it_has(folder: str) -> None:
    wrong = []
    for file in sorted((ROOT / folder).rglob("*.py")):
        path = file.relative_to(ROOT).as_posix()
        found = missing(ast.parse(file.read_text(encoding="utf-8")))
        wrong += [f"{path}:{line}: {name}" for line, name in found if name not in MEANT.get(path, [])]
    assert wrong == []


def test_pages_name_what_the_package_has() -> None:
    blocks = [
        (page.name, code)
        for page in PAGES
        for code in re.findall(r"```python\n(.*?)```", page.read_text(encoding="utf-8"), re.S)
        if re.search(r"^\s*(import|from) veneer\b", code, re.MULTILINE)
    ]
    assert blocks
    assert [(page, name) for page, code in blocks for _, name in missing(ast.parse(code))] == []


def named_in_prose(text: str) -> Iterator[tuple[int, str]]:
    """The line and the name of what a text calls, in backquotes, by its full name in the package."""
    for number, line in enumerate(text.splitlines(), start=1):
        for name in re.findall(r"`(veneer(?:\.\w+)+)[`(]", line):
            yield number, name


def missing_in_prose(text: str) -> list[tuple[int, str]]:
    """The line and the full name of what a text names of the package and is not there."""
    return [(line, name) for line, name in named_in_prose(text) if not exists(name) and not is_member(name)]


def missing_files(page: str) -> list[str]:
    """The files of code that a page names and that are not there. A path begins in the repository, the package or the
    tests; a name alone is that of any file."""
    homes, own = (ROOT, SOURCE, ROOT / "tests"), file_names()
    return [
        name
        for name in re.findall(r"`([\w./-]+\.(?:py|c|h))`", page)
        if not (any((home / name).is_file() for home in homes) if "/" in name else name in own)
    ]


@cache
def file_names() -> frozenset[str]:
    return frozenset(file.name for folder in ("src", *FOLDERS) for file in (ROOT / folder).rglob("*.*"))


PROSE = [
    *PAGES,
    *(
        file
        for folder in ("src", *FOLDERS)
        for kind in ("*.py", "*.c", "*.h")
        for file in sorted((ROOT / folder).rglob(kind))
    ),
]
"""What names the package in sentences: pages, docstrings and comments."""


def test_sentences_name_what_the_package_has() -> None:
    wrong = [
        f"{file.relative_to(ROOT).as_posix()}:{line}: {name}"
        for file in PROSE
        for line, name in missing_in_prose(file.read_text(encoding="utf-8"))
        if name not in NO_NAMES
    ]
    assert wrong == []


def test_pages_name_files_that_there_are() -> None:
    wrong = [
        f"{page.name}: {name}"
        for page in PAGES
        for name in missing_files(page.read_text(encoding="utf-8"))
        if name not in NO_NAMES
    ]
    assert wrong == []


@pytest.mark.parametrize(
    "name",
    [
        "veneer.enum",
        "veneer.enums.Methods",
        "veneer.enums.Method.LORAS",
        "veneer.model.attention.Attention.text_lengths",  # it is `TextLengths` that defines it
        "veneer.assistant.Answering",
    ],
)
def test_a_wrong_name_in_a_sentence_is_found(name: str) -> None:
    assert missing_in_prose(f"first\nsee `{name}`.") == missing_in_prose(f"first\n`{name}()`") == [(2, name)]


def test_right_names_in_a_sentence_are_not_found() -> None:
    names = (
        "veneer.train", "veneer.enums", "veneer.enums.Method", "veneer.enums.Method.LORA",
        "veneer.data.files.sources.RowFile.key", "veneer.studio.sessions.Sessions.cookie",
        "veneer.model.attention.TextLengths.text_lengths",
    )  # fmt: skip
    text = "\n".join(f"`{name}`" for name in names)
    assert [name for _, name in named_in_prose(text)] == list(names)
    assert missing_in_prose(text) == []


def test_a_page_may_name_files_by_path_or_by_name_alone() -> None:
    right = "`cli.py`, `native/rows.c`, `rows.c`, `test_imports.py`, `tests/test_imports.py`, `training/test_run.py`"
    wrong = ["objectives/test_grpo.py", "native/row.c", "clis.py"]
    assert missing_files(right + "".join(f" `{name}`" for name in wrong)) == wrong


@pytest.mark.parametrize(
    ("code", "name"),
    [
        ("from veneer.enums import Methods", "veneer.enums.Methods"),
        ("from veneer.enum import Method", "veneer.enum.Method"),
        ("from veneer import enum", "veneer.enum"),
        ("import veneer.training.runs", "veneer.training.runs"),
        ("from veneer.enums import Method, Methods as Method", "veneer.enums.Methods"),
        ("from veneer.enums.Method import LORA", "veneer.enums.Method.LORA"),
        ("def later():\n    if True:\n        from veneer.cli import men", "veneer.cli.men"),
        ("from veneer.data.encoded.chat import Tokenizer", "veneer.data.encoded.chat.Tokenizer"),
        ("import veneer\nveneer.trian({})", "veneer.trian"),
        ("from veneer import enums as words\nwords.Methods.LORA", "veneer.enums.Methods"),
    ],
)
def test_a_wrong_name_is_found(code: str, name: str) -> None:
    assert [found for _, found in missing(ast.parse(code))] == [name]


def test_right_names_are_not_found() -> None:
    code = (
        "import torch, veneer, veneer.cli\nfrom veneer import RunConfig, enums\nfrom veneer.enums import Method\n"
        "from elsewhere import missing\nveneer.train(enums.Method.LORA, enums.__doc__, Method.missing, torch.missing)"
    )
    assert missing(ast.parse(code)) == []


@pytest.mark.parametrize(
    "module", ["cli", "enums", "event_log", "native.build", "runtime.posix", "runtime.signals", "text.expressions"]
)
def test_names_that_are_read_are_those_of_the_imported_module(module: str) -> None:
    read = {name for name in attributes(f"veneer.{module}") if not name.startswith("__")}
    assert read == {name for name in vars(import_module(f"veneer.{module}")) if not name.startswith("__")}


def test_names_for_a_type_checker_alone_are_not_read() -> None:
    code = "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    from veneer.enums import Method\nlater: int\n"
    assert set(bound(ast.parse(code))) == {"TYPE_CHECKING"}
