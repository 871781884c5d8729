"""The package's names are there, and cost nothing until they are used."""

from __future__ import annotations

import json
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path

import pytest

import veneer

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
        assert value.__module__.startswith("veneer.")
        assert (value.__doc__ or "").strip()


def test_names_are_sorted_and_listed() -> None:
    assert sorted(veneer.__all__) == veneer.__all__
    assert dir(veneer) == veneer.__all__
    assert set(veneer._HOMES) | {"__version__"} == set(veneer.__all__)


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


def test_enums_may_be_given_by_their_names() -> None:
    from veneer.enums import Method, choice

    assert choice(Method, "lora", "method") is choice(Method, Method.LORA, "method") is Method.LORA
    with pytest.raises(
        veneer.VeneerError, match=r"to: 'pefd' is unknown \(did you mean 'peft'\?\); possible are peft, "
    ):
        veneer.export("adapter", "output", to="pefd")
    with pytest.raises(veneer.VeneerError, match=r"dtype: 'float8' is unknown.* possible are auto, float32, "):
        veneer.export("adapter", "output", dtype="float8")
    with pytest.raises(veneer.VeneerError, match=r"method: 'dora' is unknown.* possible are lora, qlora, full"):
        veneer.evaluate("model", "data.jsonl", method="dora")
