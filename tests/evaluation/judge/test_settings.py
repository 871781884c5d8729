from __future__ import annotations

from pathlib import Path

import pytest

from helpers.processes.invoking import invoke
from veneer.errors import ConfigError
from veneer.evaluation.judge.settings import read_judge


def test_a_file_names_a_judge_and_the_record_stands_beside_it(tmp_path: Path) -> None:
    (tmp_path / "people.jsonl").write_text("{}")
    file = tmp_path / "judge.yaml"
    file.write_text(f"url: http://127.0.0.1:8000/v1\nmodel: big\nhuman: {tmp_path}/people.jsonl\nretries: 0\n")
    found = read_judge(file)
    assert (found.url, found.model, found.retries, found.at_once) == ("http://127.0.0.1:8000/v1", "big", 0, 4)
    assert found.record == tmp_path / "judge.answers.jsonl"
    assert found.human == tmp_path / "people.jsonl"


def test_everything_that_is_wrong_is_named_together(tmp_path: Path) -> None:
    file = tmp_path / "judge.yaml"
    file.write_text("url: localhost\nadapter: a\nprompt: 'Which? {first}'\nmax_tokens: 0\nkey_file: absent\n")
    with pytest.raises(ConfigError) as caught:
        read_judge(file)
    for part in (
        "model: missing", "url: 'localhost' is not an address", "adapter: an endpoint cannot load it",
        "prompt: does not contain {question}, {second}", "max_tokens: 0, must be 1 or more",
        "key_file: absent: no such file",
    ):  # fmt: skip
        assert part in str(caught.value)
    file.write_text("modell: x\nmodel: 3\nat_once: true\n")
    with pytest.raises(ConfigError) as caught:
        read_judge(file)
    for part in (
        "modell: unknown key (did you mean 'model'?)",
        "model: 3 is not a text",
        "at_once: True is not a whole",
    ):
        assert part in str(caught.value)
    file.write_text("model: here\nat_once: 2\n")
    with pytest.raises(ConfigError, match="at_once: is for an endpoint, but there is no url"):
        read_judge(file)


@pytest.mark.parametrize("url", ["http://h:99999/v1", "http://[::1/v1", "https://h/v1?a=1", "https://me:secret@h/v1"])
def test_an_address_that_cannot_be_asked_ends_the_command_before_a_model_is_read(url: str, tmp_path: Path) -> None:
    file = tmp_path / "judge.yaml"
    file.write_text(f"model: big\nurl: '{url}'\n")
    done = invoke("evaluate", "--model", "no-such-model", "--data", "absent.jsonl", "--judge", file)
    assert done.exit_code == 2
    assert "judge.yaml does not describe a judge:\n  - url: " in done.stderr
    assert "secret" not in done.stderr
