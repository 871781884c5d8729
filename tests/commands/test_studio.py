"""`veneer studio` as a process: the link and the key's file it prints, and its end by a signal."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import httpx

from helpers.processes.invoking import refused


def test_the_studio_says_how_it_is_reached_and_ends_by_a_signal(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "veneer", "studio", "--folder", str(tmp_path / "runs"), "--port", "0", "--json"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert process.stdout is not None
    said = json.loads(process.stdout.readline())
    key = Path(said["key_file"]).read_text().strip()
    found = httpx.get(f"{said['url']}/version", headers={"authorization": f"Bearer {key}"}, trust_env=False)
    assert found.status_code == 200
    assert said["link"].startswith(f"{said['url']}/open/")
    process.send_signal(signal.SIGTERM)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 143
    assert said["link"] in err
    assert "Traceback" not in err


def test_a_folder_that_is_a_file_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "rows.jsonl"
    file.write_text("{}\n")
    assert f"{file}/.studio: cannot be written" in refused("studio", "--folder", file)


def test_workers_of_devices_that_are_not_there_are_refused_before_it_starts(tmp_path: Path) -> None:
    folder = tmp_path / "runs"
    assert "--worker 'gpu' is unknown" in refused("studio", "--folder", folder, "--worker", "gpu")
    assert "--worker 'cuda:99': torch sees" in refused("studio", "--folder", folder, "--worker", "cuda:99")
    assert "cpu is given twice" in refused("studio", "--folder", folder, "--worker", "cpu", "--worker", "cpu")
    assert not folder.exists()


def test_other_machines_need_a_key_file(tmp_path: Path) -> None:
    assert "--key-file" in refused("studio", "--folder", tmp_path, "--host", "0.0.0.0")
    keys = tmp_path / "keys"
    keys.write_text("x" * 20)
    os.chmod(keys, 0o644)
    assert "chmod 600" in refused("studio", "--folder", tmp_path, "--key-file", keys)


def test_models_that_are_not_there_or_share_a_name_are_refused_before_it_starts(
    tiny_model: Path, tmp_path: Path
) -> None:
    other = shutil.copytree(tiny_model, tmp_path / "other" / tiny_model.name)
    given = [tiny_model, tmp_path / "nope.gguf", other, tiny_model]
    models = [word for model in given for word in ("--model", model)]
    said = refused("studio", "--folder", tmp_path / "runs", *models)
    assert f"{tmp_path}/nope.gguf does not exist" in said
    assert f"{tiny_model} and {other} have one name, {tiny_model.name!r}" in said
    assert not (tmp_path / "runs").exists()
