"""A step of answers as a CUDA graph: can it be captured, has it the bits of a plain one, and how fast is it?

A part of gpu.py. The program itself captures nothing: that waits for a card on which this part has shown equal bits.
"""

from __future__ import annotations

import time
from collections.abc import Callable

import torch
from gpu_shapes import Load
from torch import Tensor

from veneer.model.cache import STEP_TOKENS
from veneer.model.decoder import CausalLM

PROMPT = STEP_TOKENS
"""Tokens of each prompt: so that the steps that are timed look at equally many."""


class Steps:
    """A step that can be made again and again, with inputs that stay where they are.

    Args:
        model: in evaluation mode.
        rows: answers at once.
    """

    def __init__(self, model: CausalLM, rows: int):
        device = model.device
        self._decoding = model.decoding(rows, 2 * STEP_TOKENS)
        prompts = torch.randint(3, model.spec.vocab_size, (rows * PROMPT,), device=device)
        self._decoding.prefill(prompts, [PROMPT] * rows)
        self._cache = self._decoding._cache
        self.tokens = torch.randint(3, model.spec.vocab_size, (rows,), device=device)
        self._lengths = self._cache.lengths.clone()

    def logits(self) -> Tensor:
        """Logits `[rows, vocab_size]` of the token behind all those before it."""
        self._cache.lengths, self._cache.longest = self._lengths, PROMPT  # none of it is sent, so that it is captured
        return self._decoding.step(self.tokens)

    def go_on(self) -> None:
        """Let the next step be one token further."""
        self._lengths.add_(1)


def milliseconds(step: Callable[[], object], device: torch.device, count: int) -> float:
    """Milliseconds of a step, each waited for, since a token has to be read before the next one."""
    begun = time.perf_counter()
    for _ in range(count):
        step()
        if device.type == "cuda":
            torch.cuda.synchronize(device)
    return 1000 * (time.perf_counter() - begun) / count


def captured(steps: Steps, device: torch.device) -> tuple[Callable[[], None], Tensor]:
    """A replay of a step, and the logits that it fills. The step is made three times before, in a stream beside."""
    beside = torch.cuda.Stream(device)
    beside.wait_stream(torch.cuda.current_stream(device))
    with torch.cuda.stream(beside):
        for _ in range(3):
            steps.logits()
    torch.cuda.current_stream(device).wait_stream(beside)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        logits = steps.logits()
    return graph.replay, logits


@torch.no_grad()
def run_graphs(make: Callable[[bool], CausalLM], device: torch.device, load: Load) -> bool:
    """Print a line for LoRA and for QLoRA, with one answer and with 16; whether all was captured and is right.

    Args:
        make: gives a model in evaluation mode, with a base in 4 bits or not.
        device: the card; on a CPU plain steps alone are made.
        load: says how many steps.
    """
    right = True
    for quantized in (False, True):
        model = make(quantized)
        for rows in (1, 16):
            steps = Steps(model, rows)
            steps.logits()
            name = f"{'QLoRA' if quantized else 'LoRA':6} {rows:2} answers"
            plain = milliseconds(steps.logits, device, load.steps)
            if device.type != "cuda":
                print(f"{name}: plain {plain:.2f} ms; nothing is captured without a card", flush=True)
                continue
            try:
                replay, found = captured(steps, device)
            except RuntimeError as error:  # what a capture meets is what this part is to find out
                print(f"{name}: plain {plain:.2f} ms; not captured: {str(error).splitlines()[0][:200]}", flush=True)
                return False
            replayed = milliseconds(replay, device, load.steps)
            equal = 0
            for _ in range(STEP_TOKENS // 2):
                replay()
                kept = found.clone()
                equal += torch.equal(kept, steps.logits())
                steps.go_on()
            right &= equal == STEP_TOKENS // 2
            print(
                f"{name}: plain {plain:.2f} ms, replayed {replayed:.2f} ms, "
                f"{equal} of {STEP_TOKENS // 2} with equal bits",
                flush=True,
            )
        del model
        torch.cuda.empty_cache()
    return right
