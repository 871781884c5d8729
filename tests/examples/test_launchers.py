"""The examples of launchers are well-formed, and their commands are ones that torchrun and veneer take."""

from __future__ import annotations

import re
import shlex
import subprocess
from pathlib import Path

import click
import pytest
import yaml
from torch.distributed.run import get_args_parser

from veneer.cli import main
from veneer.config import parse
from veneer.config.values import override

FOLDER = Path(__file__).parents[2] / "examples" / "launchers"
ROOT = FOLDER.parents[1]
knows_signals = pytest.mark.skipif(
    "--signals-to-handle" not in get_args_parser().format_help(), reason="torchrun has --signals-to-handle from 2.10 on"
)


def joined(text: str) -> str:
    return text.replace("\\\n", " ")


def words_of(text: str) -> list[str]:
    """The words from torchrun on, of the line that starts it."""
    (line,) = [line for line in joined(text).splitlines() if re.search(r"\btorchrun\b", line) and "#" not in line]
    # What the launcher sets are numbers and a host's name, of which a number is one.
    words = shlex.split(re.sub(r'"\$[^"]*"', "1", line))
    return words[words.index("torchrun") + 1 :]


def commands() -> dict[str, list[str]]:
    job = yaml.safe_load((FOLDER / "trainjob.yaml").read_text())["spec"]["trainer"]
    assert job["command"] == ["torchrun"]
    return {
        "slurm.sh": words_of((FOLDER / "slurm.sh").read_text()),
        "sky.yaml": words_of(yaml.safe_load((FOLDER / "sky.yaml").read_text())["run"]),
        "trainjob.yaml": job["args"],
    }


@pytest.mark.parametrize("name", [pytest.param("slurm.sh", marks=knows_signals), "sky.yaml", "trainjob.yaml"])
def test_torchrun_and_veneer_take_the_command(name: str) -> None:
    taken = get_args_parser().parse_args(commands()[name])
    assert taken.module
    assert taken.training_script == "veneer"
    verb, *arguments = taken.training_script_args
    command = main.commands[verb]
    given, _, _ = command.make_parser(click.Context(command, **main.context_settings)).parse_args(arguments)
    assert given["resume"]  # a job that is started again goes on
    base = {"model": given["model"], "output": given["output"], "data": {"file": given["data"]}}
    assert parse(override(base, given["assignments"]), where=name).train.lanes == 16


@knows_signals
def test_the_script_is_one_that_bash_reads_and_asks_for_a_checkpoint() -> None:
    assert subprocess.run(["bash", "-n", str(FOLDER / "slurm.sh")], check=False).returncode == 0
    text = (FOLDER / "slurm.sh").read_text()
    options = dict(re.findall(r"^#SBATCH --([\w-]+)(?:=(\S+))?$", text, re.M))
    assert options["signal"] == "USR1@120"
    assert {"requeue", "nodes", "ntasks-per-node"} <= options.keys()
    assert options["ntasks-per-node"] == "1"  # a torchrun each
    taken = get_args_parser().parse_args(commands()["slurm.sh"])
    assert "SIGUSR1" in taken.signals_to_handle.split(",")


def test_the_job_asks_for_gpus_by_which_processes_are_counted() -> None:
    job = yaml.safe_load((FOLDER / "trainjob.yaml").read_text())
    assert (job["apiVersion"], job["kind"]) == ("trainer.kubeflow.org/v1alpha1", "TrainJob")
    trainer = job["spec"]["trainer"]
    assert trainer["resourcesPerNode"]["limits"]["nvidia.com/gpu"] * trainer["numNodes"] == 16


def test_what_the_job_reads_and_writes_is_on_its_volume() -> None:
    """In the fields that the TrainJob of Trainer 2.2 has, which refuses others (v1alpha1)."""
    spec = yaml.safe_load((FOLDER / "trainjob.yaml").read_text())["spec"]
    assert set(spec) == {"runtimeRef", "trainer", "runtimePatches"}
    (patch,) = spec["runtimePatches"]
    (node,) = patch["trainingRuntimeSpec"]["template"]["spec"]["replicatedJobs"]
    pod = node["template"]["spec"]["template"]["spec"]
    (container,), (volume,) = pod["containers"], pod["volumes"]
    assert node["name"] == container["name"] == "node"  # as the runtime torch-distributed calls them
    (mount,) = container["volumeMounts"]
    assert mount["name"] == volume["name"]
    paths = [word for word in spec["trainer"]["args"] if word.startswith("/")]
    assert len(paths) == 3
    assert all(path.startswith(f"{mount['mountPath']}/") for path in paths)


def test_the_task_writes_where_files_are_added_to() -> None:
    """Of SkyPilot's ways to mount a bucket, one cannot append, as a run's log does, and one writes nothing back."""
    task = yaml.safe_load((FOLDER / "sky.yaml").read_text())
    taken = get_args_parser().parse_args(commands()["sky.yaml"])
    options = dict(zip(taken.training_script_args[1::2], taken.training_script_args[2::2], strict=False))
    assert options["--data"] in task["file_mounts"]
    assert task["file_mounts"][str(Path(options["--output"]).parent)]["mode"] == "MOUNT_CACHED"


def test_the_image_copies_what_is_there() -> None:
    text = (FOLDER / "Dockerfile").read_text()
    assert re.findall(r"^FROM \S+ AS (\w+)$", text, re.M) == ["cpu", "cuda"]
    copied = [word for line in re.findall(r"^COPY (.*)$", text, re.M) for word in line.split()[:-1]]
    assert copied
    assert [name for name in copied if not (ROOT / name).exists()] == []
    needed = {"pyproject.toml", "hatch_build.py", "README.md", "LICENSE", "src", "examples/claims"}
    assert set(copied) == needed
