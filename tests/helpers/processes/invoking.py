"""Commands of the command line, called in this process."""

from __future__ import annotations

from click.testing import CliRunner, Result

from veneer.cli import main

FLOAT32 = ("--device", "cpu", "--dtype", "float32")


def invoke(*argv: object, stdin: str | bytes | None = None) -> Result:
    return CliRunner().invoke(main, [str(part) for part in argv], input=stdin)


def refused(*argv: object, code: int = 2, stdin: str | bytes | None = None) -> str:
    """The message of a command that must be refused: on standard error, once, without a traceback."""
    result = invoke(*argv, stdin=stdin)
    assert result.exit_code == code, (result.output, result.exception)
    assert result.stdout == ""
    assert "Traceback" not in result.stderr
    assert isinstance(result.exception, SystemExit)
    return result.stderr


def generated(model: object, *more: object, stdin: str | bytes | None = None) -> Result:
    result = invoke("generate", "--model", model, *FLOAT32, "--max-new-tokens", 6, *more, stdin=stdin)
    assert result.exit_code == 0, (result.output, result.exception)
    return result


def given(model: object, data: object, output: object, *more: object) -> list[object]:
    return ["train", "--model", model, "--data", data, "--output", output, "--method", "lora", *more]
