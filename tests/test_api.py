"""The package's names are there, and cost nothing until they are used."""

from __future__ import annotations

import ast
import dataclasses
import doctest
import inspect
import json
import subprocess
import sys
from collections.abc import Iterator
from importlib.metadata import version
from pathlib import Path
from typing import Any, get_args, get_type_hints

import pytest

import veneer

ALIASES = {"Event", "RowSource", "Subscriber"}
OTHER_NAMES = {"data": "lint", "studio": "open_studio"}
"""The commands whose names are packages of veneer's, and their functions."""
INTERNAL = (
    "adapters.",
    "data.",
    "diagnosis.facts.Gpu",
    "diagnosis.probe.Measured",
    "diagnosis.probe.ProbedRate",
    "enums.RowKind",
    "io.",
    "loading.base_form.BaseForm",
    "model.",
    "native.",
    "planning.",
    "products.",
    "quant.",
    "training.trainable",
)
"""Where the classes of results' inner parts are, which a caller hands on and neither makes nor asks."""
HEAVY = {
    "torch", "numpy", "transformers", "tokenizers", "safetensors", "pydantic", "yaml", "jinja2", "huggingface_hub",
    "gguf", "rich", "pyarrow",
}  # fmt: skip


def loaded_after(code: str) -> set[str]:
    """Top-level packages that a fresh interpreter holds after `code`."""
    report = "import json, sys; print(json.dumps(sorted({name.split('.')[0] for name in sys.modules})))"
    run = subprocess.run([sys.executable, "-c", f"{code}\n{report}"], capture_output=True, text=True, check=True)
    return set(json.loads(run.stdout.splitlines()[-1]))


@pytest.mark.parametrize("name", veneer.__all__)
def test_every_name_is_there(name: str) -> None:
    value = getattr(veneer, name)
    assert value is not None
    if name != "__version__":
        # Aliases of types have no module of their own.
        assert name in ALIASES or value.__module__.startswith("veneer.")
        assert name in ALIASES or (value.__doc__ or "").strip()


def test_names_are_sorted_and_listed() -> None:
    assert sorted(veneer.__all__) == veneer.__all__
    assert dir(veneer) == veneer.__all__
    assert set(veneer._HOMES) | {"__version__"} == set(veneer.__all__)


def test_type_checkers_see_the_names_that_are_loaded() -> None:
    imports = [node for node in ast.walk(ast.parse(inspect.getsource(veneer))) if isinstance(node, ast.ImportFrom)]
    seen = {alias.asname: str(node.module) for node in imports for alias in node.names if alias.asname}
    assert seen == veneer._HOMES


def test_an_unknown_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="no attribute 'trian'"):
        _ = veneer.trian


def test_the_version_is_that_of_the_distribution() -> None:
    assert veneer.__version__ == version("veneer")


def test_importing_the_package_imports_nothing_heavy() -> None:
    assert loaded_after("import veneer") & (HEAVY | {"click"}) == set()


def test_the_configuration_needs_no_torch() -> None:
    loaded = loaded_after("import veneer; veneer.RunConfig; veneer.Method; veneer.VeneerError")
    assert loaded & (HEAVY - {"pydantic", "yaml"}) == set()


@pytest.mark.parametrize("arguments", [[], ["--help"], ["--version"], ["train", "--help"], ["evaluate", "--help"]])
def test_help_imports_nothing_heavy(arguments: list[str]) -> None:
    code = (
        "import sys\nfrom veneer.cli import main\n"
        f"try:\n    main({arguments!r})\nexcept SystemExit as stop:\n    assert stop.code in (0, 2), stop.code\n"
    )
    assert loaded_after(code) & HEAVY == set()


def test_the_command_and_the_module_are_the_same() -> None:
    outputs = [
        subprocess.run([*command, "--version"], capture_output=True, text=True, check=True).stdout
        for command in ([sys.executable, "-m", "veneer"], [str(Path(sys.executable).with_name("veneer"))])
    ]
    assert outputs[0] == outputs[1]
    assert veneer.__version__ in outputs[0]


def test_every_command_is_a_function_of_the_same_name() -> None:
    from veneer.cli import main

    verbs = {OTHER_NAMES.get(name, name) for name in main.commands}
    assert verbs <= set(veneer.__all__)
    for verb in verbs:
        assert callable(getattr(veneer, verb)), verb
        assert not isinstance(getattr(veneer, verb), type)


def test_no_module_takes_the_place_of_a_name() -> None:
    """Python puts a submodule in the place of a package's attribute of that name as soon as it is imported."""
    root = Path(veneer.__file__).parent
    modules = {file.stem for file in root.glob("*.py")} | {folder.name for folder in root.iterdir() if folder.is_dir()}
    assert modules & set(veneer.__all__) == set()


def test_everything_that_a_name_gives_or_takes_is_exported() -> None:
    """Annotations of the verbs, of the results' fields, and of what they hold: each class of veneer's is a name."""
    exported = {getattr(veneer, name) for name in veneer.__all__ if name != "__version__"}
    met, waiting = set(), [getattr(veneer, name) for name in veneer.__all__ if name != "__version__"]
    while waiting:
        thing = waiting.pop()
        for found in classes_of(thing):
            if found not in met and found.__module__.startswith("veneer.") and public(found):
                met.add(found)
                waiting.append(found)
    missing = {f"{one.__module__}.{one.__qualname__}" for one in met - exported}
    inner = tuple(f"veneer.{place}" for place in INTERNAL)
    assert {one for one in missing if not one.startswith(inner)} == set()


def public(found: type) -> bool:
    return not found.__name__.startswith("_")


def classes_of(thing: Any) -> Iterator[type]:
    """The classes in the annotations of a function, or of a dataclass's or settings section's fields."""
    functions = (staticmethod, property)
    if isinstance(thing, type) and not (dataclasses.is_dataclass(thing) or hasattr(thing, "model_fields")):
        return
    try:
        hints = get_type_hints(thing)
    except (NameError, TypeError):
        return
    assert not isinstance(thing, functions)
    for name, hint in hints.items():
        if not name.startswith("_"):
            yield from within(hint)


def within(hint: Any) -> Iterator[type]:
    if isinstance(hint, type) and not get_args(hint):
        yield hint
    for one in get_args(hint):
        if not isinstance(one, list):
            yield from within(one)


def test_examples_in_docstrings_hold(
    tiny_model: Path, tiny_data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    names = {"veneer": veneer, "model": str(tiny_model), "data": str(tiny_data)}
    run, seen = doctest.DocTestRunner(), 0
    for name in veneer.__all__:
        value = getattr(veneer, name)
        if not (getattr(value, "__doc__", None) or "").count(">>>"):
            continue
        for example in doctest.DocTestFinder(recurse=False).find(value, name, globs=names):
            seen += len(example.examples)
            run.run(example)
    assert seen > 5
    assert run.summarize(verbose=False).failed == 0


def test_results_are_short_in_a_prompt_and_tables_in_a_notebook(
    tiny_model: Path, tiny_data: Path, tmp_path: Path
) -> None:
    run = veneer.train(
        {"model": str(tiny_model), "output": str(tmp_path / "run"), "method": "lora", "data": {"file": str(tiny_data)},
         "train": {"steps": 1}, "compute": {"device": "cpu", "dtype": "float32"}}
    )  # fmt: skip
    compute = veneer.ComputeSection(device="cpu", dtype="float32")
    report = veneer.evaluate(str(tiny_model), tiny_data, adapter=run.output, compute=compute, limit=2)
    record = veneer.export(run.output, tmp_path / "out", to="peft", compute=compute, limit=1)
    for result in (run, report, record, record.parity, veneer.doctor()):
        assert len(repr(result)) < 2500, repr(result)[:3000]
    for shown in (run, report, record, record.parity):
        assert "<table>" in shown._repr_html_()
