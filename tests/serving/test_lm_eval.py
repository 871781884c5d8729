"""lm-evaluation-harness as a client: its `local-completions` scores and continues texts through the server."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.nn import functional

from helpers.models.tiny import write_model
from helpers.servers.served import ADAPTER, BASE, serving, tiny_assistant
from veneer.assistant.assistant import Assistant
from veneer.generation.batch import generate
from veneer.generation.sampling import Sampling
from veneer.http_server.server import HttpServer
from veneer.model.language import LanguageModel

pytestmark = pytest.mark.skipif(importlib.util.find_spec("lm_eval") is None, reason="lm-eval is not installed")
PAIRS = [("1: late", " parcel?"), ("the", " parcel is late"), ("user:", " where"), ("a b c", " d e f g")]


def client(server: HttpServer, model: str, folder: Path | None, **more: Any) -> Any:
    """The harness with the tokenizer of a folder, or else of the server."""
    from lm_eval.models.openai_completions import LocalCompletionsAPI

    return LocalCompletionsAPI(
        model=model,
        base_url=f"{server.url}/v1/completions",
        tokenizer=None if folder is None else str(folder),
        tokenizer_backend="auto" if folder is None else "huggingface",
        max_retries=1,
        **more,
    )


def instances(kind: str, arguments: list[tuple[Any, ...]]) -> list[Any]:
    from lm_eval.api.instance import Instance

    return [Instance(kind, {}, given, number) for number, given in enumerate(arguments)]


@torch.no_grad()
def own_score(model: LanguageModel, context: list[int], rest: list[int]) -> tuple[float, bool]:
    """Log-probability of the rest, and whether each of its tokens is the likeliest, by one pass over all tokens."""
    tokens = torch.tensor(context + rest)
    hidden = model.documents(tokens, torch.arange(len(tokens)), [len(tokens)])
    scores = functional.log_softmax(model.logits(hidden)[len(context) - 1 : -1].double(), dim=-1)
    chosen = scores.gather(1, torch.tensor(rest)[:, None])[:, 0]
    return float(chosen.sum()), bool((scores.argmax(-1) == torch.tensor(rest)).all())


@pytest.mark.parametrize(("batch_size", "remote"), [(1, False), (4, False), (4, True)])
def test_its_scores_are_those_of_the_model_itself(
    server: HttpServer, assistant: Assistant, other: LanguageModel, tiny_model: Path, batch_size: int, remote: bool
) -> None:
    for name, model in ((BASE, assistant.model), (ADAPTER, other)):
        asking = client(server, name, None if remote else tiny_model, batch_size=batch_size)
        assert asking.tokenizer_backend == ("remote" if remote else "huggingface")
        found = asking.loglikelihood(instances("loglikelihood", list(PAIRS)), disable_tqdm=True)
        for (context, rest), (score, greedy) in zip(PAIRS, found, strict=True):
            before, after = asking.tok_encode(context), asking.tok_encode(context + rest)
            expected = own_score(model, before, after[len(before) :])
            assert score == pytest.approx(expected[0], abs=1e-4)
            assert greedy == expected[1]


@torch.no_grad()
def test_the_last_token_counts_where_the_model_ends_its_answer_behind_it(tmp_path: Path) -> None:
    """The harness takes the last entry for a new token; where the end had none, it took a token of the answer."""
    from transformers import AutoModelForCausalLM

    folder = write_model(tmp_path / "ends", tied=False)
    tokenizer, model = tiny_assistant(folder).tokenizer, AutoModelForCausalLM.from_pretrained(folder)
    tokens = [(tokenizer.encode(context), tokenizer.encode(context + rest)) for context, rest in PAIRS]
    for _, whole in tokens:  # the head's row of the end goes the way that the model goes behind each answer
        last = model(torch.tensor([whole]), output_hidden_states=True).hidden_states[-1][0, -1]
        model.lm_head.weight[tokenizer.eos_id] += 2 * last / last.norm()
    model.save_pretrained(folder)
    expected, ends = [], []
    for context, whole in tokens:
        scores = functional.log_softmax(model(torch.tensor([whole])).logits[0].double(), dim=-1)
        rest = torch.tensor(whole[len(context) :])
        expected.append(float(scores[len(context) - 1 : -1].gather(1, rest[:, None]).sum()))
        ends.append(int(scores[-1].argmax()) == tokenizer.eos_id)
    assert all(ends)
    with serving(tiny_assistant(folder)) as (server, _):
        for batch_size in (1, 4):
            asking = client(server, BASE, folder, batch_size=batch_size)
            found = asking.loglikelihood(instances("loglikelihood", list(PAIRS)), disable_tqdm=True)
            assert [score for score, _ in found] == pytest.approx(expected, abs=1e-4)


def test_it_continues_texts_up_to_its_stop_strings(server: HttpServer, assistant: Assistant) -> None:
    asking = client(server, BASE, None)
    assert (asking.eot_token_id, asking.eos_string) == (assistant.tokenizer.eos_id, assistant.tokenizer.eos_token)
    settings = {"until": ["\n"], "max_gen_toks": 6, "do_sample": False}
    found = asking.generate_until(instances("generate_until", [("1: late", settings)]), disable_tqdm=True)
    sampling = Sampling(max_new_tokens=6)
    tokens = assistant.tokenizer.encode("1: late")
    [answer] = generate(assistant.model, [tokens], sampling=sampling, stop_ids=assistant.stop_ids)
    assert found == [assistant.tokenizer.decode(answer).partition("\n")[0]]
