"""The self-check: it holds for this server, and it does not hold for one that mixes."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import pytest
import torch

from helpers.adapters.peft_folders import randomise
from helpers.processes.invoking import FLOAT32, invoke
from veneer.adapters.adapter import remove
from veneer.adapters.files.store import save_adapter
from veneer.adapters.inject import inject
from veneer.adapters.spec import LoraSpec
from veneer.assistant.load import open_assistant
from veneer.config import ComputeSection
from veneer.enums import Variant
from veneer.errors import AdapterError
from veneer.events import ignore
from veneer.generation import scheduler
from veneer.model.decoder import CausalLM
from veneer.native.library import kernels
from veneer.serving.request import ServeRequest
from veneer.serving.selfcheck import asking
from veneer.serving.selfcheck.certificate import AnswersMixed, IsolationCertificate
from veneer.serving.selfcheck.run import selfcheck
from veneer.serving.served_adapters.catalogue import AdapterVersion
from veneer.serving.served_adapters.folder import AdapterFolder

SPECS = {
    "red": LoraSpec(rank=2, alpha=6.0),
    "green": LoraSpec(rank=5, alpha=11.0),
    "blue": LoraSpec(rank=8, alpha=8.0),
    "dora": LoraSpec(rank=4, alpha=4.0, variant=Variant.DORA),
    "norm": LoraSpec(rank=4, alpha=4.0, modules_to_save=("norm",)),
}
compiled = pytest.mark.skipif(kernels() is None, reason="no compiled kernels")


@pytest.fixture(scope="module")
def adapters(tmp_path_factory: pytest.TempPathFactory, tiny_model: Path) -> Path:
    folder = tmp_path_factory.mktemp("adapters")
    model = open_assistant(str(tiny_model), compute=ComputeSection(device="cpu", dtype="float32")).model
    assert isinstance(model, CausalLM)
    for seed, (name, spec) in enumerate(SPECS.items()):
        adapter = inject(model, spec)
        randomise(list(adapter.parameters()), seed)
        (folder / name).mkdir()
        save_adapter(folder / name, adapter, base="owner/base")
        remove(model, adapter)
    return folder


def run(model: Path, adapters: Path | None, questions: int, dtype: str = "float32") -> IsolationCertificate:
    compute = ComputeSection(device="cpu", dtype=dtype)
    return selfcheck(ServeRequest(model=str(model), adapters=adapters, compute=compute), ignore, questions=questions)


@compiled
def test_this_server_does_not_mix_answers(tiny_model: Path, adapters: Path) -> None:
    certificate = run(tiny_model, adapters, 110)
    counts = certificate.counts
    assert certificate.held, certificate.summary()
    assert counts.bitwise > 55
    assert counts.rounded > 5
    assert counts.bitwise + counts.rounded + counts.left + counts.refused == counts.asked == 110
    assert 0 <= certificate.largest_difference <= 1e-5
    assert min(counts.reloads, counts.evictions, counts.preemptions) > 0
    assert min(counts.shared_tokens, counts.base_after_adapter) > 0
    assert {one.name for one in certificate.adapters} == set(SPECS)


@compiled
def test_a_cache_that_forgets_the_adapter_is_found(
    tiny_model: Path, adapters: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Beginnings are shared by their tokens alone: what other servers were seen to do."""
    own = scheduler.content_key

    def forgetful(before: bytes, tokens: Sequence[int], answered: int) -> bytes:
        return own(b"", tokens, answered)

    monkeypatch.setattr(scheduler, "content_key", forgetful)
    certificate = run(tiny_model, adapters, 60)
    assert not certificate.held
    assert certificate.different >= len(certificate.differences) > 0
    assert "ANSWERS DIFFER" in certificate.summary()
    with pytest.raises(AnswersMixed):
        certificate.refuse()


@compiled
def test_a_server_that_gives_the_old_version_after_a_reload_is_found(
    tiny_model: Path, adapters: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    own = AdapterFolder.load
    loaded: set[str] = set()

    def stale(self: AdapterFolder, name: str, expected: int | None) -> AdapterVersion:
        first = name not in loaded
        loaded.add(name)
        return own(self, name, expected) if first else AdapterVersion(name, 2)

    monkeypatch.setattr(AdapterFolder, "load", stale)
    monkeypatch.setattr(asking, "QUESTIONS_PER_RELOAD", 10)
    certificate = run(tiny_model, adapters, 60)
    assert not certificate.held
    # What the server says depends on when its files are exchanged: before it reads them, or meanwhile.
    problems = ("not a version that was loaded", *asking.EXCHANGED_ERRORS)
    assert all(any(problem in one.problem for problem in problems) for one in certificate.differences)


@compiled
def test_the_base_alone_is_checked_too(tiny_model: Path) -> None:
    certificate = run(tiny_model, None, 60)
    assert certificate.held
    assert certificate.counts.shared_tokens > 0
    assert certificate.adapters == ()


@compiled
def test_adapters_that_cannot_be_compared_or_used_are_named(tiny_model: Path, adapters: Path, tmp_path: Path) -> None:
    certificate = run(tiny_model, adapters, 30, dtype="bfloat16")
    assert certificate.held
    assert list(certificate.left_out) == ["norm"]
    assert "bfloat16" in certificate.summary()
    (tmp_path / "bad").mkdir()
    (tmp_path / "bad" / "adapter_config.json").write_text("{}")
    with pytest.raises(AdapterError, match=r"no adapter can be checked:\n  - bad"):
        run(tiny_model, tmp_path, 30)


@compiled
def test_the_command_writes_the_certificate_and_says_so(tiny_model: Path, adapters: Path, tmp_path: Path) -> None:
    path = tmp_path / "found.json"
    arguments = ("serve", "--model", tiny_model, "--adapters", adapters, *FLOAT32)
    done = invoke(*arguments, "--selfcheck", "--questions", "30", "--certificate", path)
    assert done.exit_code == 0, done.output
    assert "Answers do not mix: 30 questions" in done.output
    content = json.loads(path.read_text())
    assert content["held"] is True
    assert content["counts"]["asked"] == 30
    assert content["machine"]["torch"] == torch.__version__
    assert invoke(*arguments, "--questions", "30").exit_code == 2
