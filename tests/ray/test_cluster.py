"""Tasks on a cluster: what each gets of a node, what is refused, and what becomes of one whose worker dies."""

from __future__ import annotations

import signal
from importlib.metadata import version
from pathlib import Path
from types import FrameType

import pytest

from helpers.processes.invoking import refused
from helpers.processes.ray_nodes import Nodes
from helpers.processes.ray_tasks import die, die_once, half
from veneer.errors import ConfigError, OutputError, RankLost, VeneerError
from veneer.ray.cluster import TaskFolder, TaskResources, cluster, slots_of


def test_a_task_gets_a_gpu_or_the_threads_that_it_asks_for_or_a_whole_node() -> None:
    small, large, manager = {"CPU": 4.0}, {"CPU": 8.0}, {"memory": 1e9}
    assert slots_of([small, large, manager], None) == (TaskResources(4.0, 0.0, 4, 2), 3)
    assert slots_of([small, large, manager], 2) == (TaskResources(2.0, 0.0, 2, 4), 6)
    assert slots_of([small, {"CPU": 16.0, "GPU": 2.0}, {"CPU": 4.0, "GPU": 1.0}], None) == (
        TaskResources(0.0, 1.0, 4, 2),
        3,
    )
    with pytest.raises(ConfigError, match=r"threads is 9 and no node of the cluster has more than 8 CPUs"):
        slots_of([small, large], 9)
    with pytest.raises(ConfigError, match="no node with a CPU or a GPU"):
        slots_of([manager], None)


def test_a_node_without_the_folder_or_with_another_version_is_refused(tmp_path: Path) -> None:
    with TaskFolder(tmp_path, version("veneer")).entered():
        assert Path.cwd() == tmp_path
    assert Path.cwd() != tmp_path
    with pytest.raises(OutputError, match="does not see"), TaskFolder(tmp_path / "gone", version("veneer")).entered():
        pass
    with pytest.raises(ConfigError, match=r"veneer 0\.0"), TaskFolder(tmp_path, "0.0").entered():
        pass


def test_a_cluster_and_processes_of_this_machine_are_not_given_together(tmp_path: Path) -> None:
    common = ["sweep", "--model", "m", "--data", "d", "--output", tmp_path, "--grid", "lora.rank=1,2", "--on", "ray"]
    assert "--on computes on the nodes of a cluster" in refused(*common, "--devices", 2)
    assert "--together joins points on one machine" in refused(*common, "--together", 2)
    asked = ["generate", "--model", "m", "--prompt", "p", "--on", "ray"]
    assert "one process answers a single question" in refused(*asked)


@pytest.mark.slow
def test_every_task_is_heard_of_and_one_whose_worker_dies_is_done_again(
    two_nodes: Nodes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    found: dict[int, object] = {}
    with cluster(two_nodes.address) as nodes:
        assert nodes.slots() == 2
        nodes.each(half, [4, 3, 10], ["a", "b", "c"], found.__setitem__)
        assert (found[0], found[2]) == (2, 5)
        assert isinstance(found[1], VeneerError)
        assert str(found[1]) == "3 is odd"
        nodes.each(die_once, [str(tmp_path / "marker")], ["a"], found.__setitem__)
        assert found[0] == "done again"
        monkeypatch.setattr("veneer.ray.cluster.ATTEMPTS", 0)
        nodes.each(die, [None], ["the last"], found.__setitem__)
    assert isinstance(found[0], RankLost)
    assert str(found[0]).startswith("the last: its worker or node was lost 1 times")


@pytest.mark.slow
def test_sigterm_goes_to_whom_it_went_before_the_cluster(two_nodes: Nodes) -> None:
    received: list[int] = []

    def note(number: int, frame: FrameType | None) -> None:
        received.append(number)

    before = signal.signal(signal.SIGTERM, note)
    try:
        with cluster(two_nodes.address):
            assert signal.getsignal(signal.SIGTERM) is note
            signal.raise_signal(signal.SIGTERM)
        assert received == [signal.SIGTERM]
    finally:
        signal.signal(signal.SIGTERM, before)


@pytest.mark.parametrize("said", ["The current node timed out during startup. This could happen\nbecause", ""])
def test_a_cluster_that_does_not_start_here_is_refused_in_one_line(said: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def failing(**settings: object) -> None:
        raise Exception(said)  # as Ray does itself

    monkeypatch.setattr("ray.init", failing)
    with pytest.raises(ConfigError) as caught, cluster("ray"):
        pass
    assert str(caught.value) == f"the cluster ray cannot be used: {said.partition(chr(10))[0] or 'Exception'}"


@pytest.mark.slow
def test_a_cluster_that_is_not_there_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"the cluster 127\.0\.0\.1:1 cannot be reached"), cluster("127.0.0.1:1"):
        pass
