"""A veneer model for lm-evaluation-harness (`pip install 'veneer[lm-eval]'`): its tasks run as on any other model.

    from lm_eval import simple_evaluate
    from veneer import open_assistant
    from veneer.evaluation.lm_eval import VeneerLM

    assistant = open_assistant("MODEL", adapter="my-adapter")
    tuned = simple_evaluate(VeneerLM(assistant), tasks=["arc_easy"])
    with assistant.as_base():
        base = simple_evaluate(VeneerLM(assistant), tasks=["arc_easy"])

Each request is answered as lm_eval's own `HFLM` answers it (lm_eval 0.4.13, models/huggingface.py): with the ids of
transformers' tokenizer, the same truncation from the left, the same windows of long texts, and the same ends of
answers. Two things follow. Prompts arrive as rendered text, so a control token that is spelled in a row becomes a
control token here. And an answer ends where the generation config and the tokenizer end a text, which is not
necessarily where the chat template ends a turn.

The harness's own cache of answers (`use_cache`) does not record which model gave an answer: give base and adapter
different files.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from lm_eval.api.instance import Instance
from lm_eval.api.model import TemplateLM
from lm_eval.models.utils import normalize_gen_kwargs, postprocess_generated_text
from lm_eval.utils import get_rolling_token_windows, make_disjoint_window

from veneer.assistant.assistant import Assistant
from veneer.data.encoded.chat import Example, template_of, token_ids
from veneer.errors import ConfigError, DataError
from veneer.evaluation.scoring import grouped, target_states
from veneer.events import Level, Note, Stage, Subscriber, ignore
from veneer.generation.batch import answer_all
from veneer.generation.request import MAX_STOPS, STREAMS_PER_SEED, GenerationRequest
from veneer.generation.sampling import Sampling
from veneer.model.mode import evaluation_mode

MAX_NEW_TOKENS = 256
"""The longest answer if a task sets none, in tokens: that of HFLM."""
CHUNK = 256
"""The number of predictions whose whole distributions are held at a time."""
CONTINUED = "CONTINUED_FROM_HERE "
"""Marks the end of a message that the model is to continue, while the template is rendered."""
SETTINGS = ("temperature", "top_p", "top_k", "min_p", "repetition_penalty")
"""Generation settings of a task that are passed on unchanged."""

TokenPair = tuple[Any, list[int], list[int]]
"""A request (None for a window of a longer text), the ids of its context, and those of its continuation."""


class VeneerLM(TemplateLM):
    """An assistant as lm-evaluation-harness sees a model: with its adapter, or without it within `as_base()`.

    Args:
        assistant: the model.
        max_length: tokens of the longest input; by default the model's context.
        emit: receives the progress of the requests.
    """

    def __init__(self, assistant: Assistant, *, max_length: int | None = None, emit: Subscriber = ignore) -> None:
        super().__init__()
        self._assistant, self._emit = assistant, emit
        self.max_length = max_length or assistant.model.spec.max_positions

    @property
    def eot_token_id(self) -> int:
        """The token that ends a text."""
        tokenizer = self._assistant.tokenizer
        if tokenizer.eos_id is None:
            raise ConfigError("the tokenizer has no end-of-text token, which lm-evaluation-harness asks for")
        return tokenizer.eos_id

    @property
    def prefix_token_id(self) -> int:
        """The token before a text whose first token is predicted too."""
        bos = self._assistant.tokenizer.bos_id
        return self.eot_token_id if bos is None else bos

    def tok_encode(self, string: str, add_special_tokens: bool | None = None) -> list[int]:
        """The ids of a text, with the tokens that the tokenizer puts around it unless the text begins with them."""
        tokenizer = self._assistant.tokenizer
        if add_special_tokens is None:
            add_special_tokens = not string.startswith(
                tokenizer.decode([self.prefix_token_id], skip_special_tokens=False)
            )
        return tokenizer.encode(string, add_special_tokens=add_special_tokens)

    def loglikelihood(self, requests: Sequence[Instance], disable_tqdm: bool = True) -> list[tuple[float, bool]]:
        """The log-probability of each continuation after its context, in nats, and whether greedy decoding gives it."""
        found: list[tuple[float, bool]] = super().loglikelihood(requests, disable_tqdm=disable_tqdm)
        return found

    def loglikelihood_rolling(self, requests: Sequence[Instance], disable_tqdm: bool = True) -> list[float]:
        """The log-probability of each whole text, in nats; one that is longer than the context is cut into windows."""
        windows, owners = [], []
        for number, request in enumerate(requests):
            (text,) = request.args
            for pair in get_rolling_token_windows(
                self.tok_encode(text), self.prefix_token_id, max_seq_len=self.max_length, context_len=1
            ):
                windows.append((None, *make_disjoint_window(pair)))
                owners.append(number)
        found = self._loglikelihood_tokens(windows)
        sums = np.bincount(owners, weights=[logprob for logprob, _ in found], minlength=len(requests))
        return [float(one) for one in sums]

    def generate_until(self, requests: Sequence[Instance], disable_tqdm: bool = True) -> list[str]:
        """The answer to each prompt, up to the first of the texts that end it."""
        asked = [
            self._generation(*request.args, stream=number % STREAMS_PER_SEED) for number, request in enumerate(requests)
        ]
        tokenizer, spec = self._assistant.tokenizer, self._assistant.model
        with Stage(self._emit, "answering for lm-eval", total=len(asked), unit="prompts") as stage:
            outputs = answer_all(
                spec,
                [one for one, _ in asked],
                decoder=tokenizer,
                on_progress=stage.advance_side_by_side,
            )
        return [
            postprocess_generated_text(tokenizer.decode(tokens), until, None)
            for tokens, (_, until) in zip(outputs, asked, strict=True)
        ]

    def _generation(
        self, context: str, settings: Mapping[str, Any], *, stream: int
    ) -> tuple[GenerationRequest, list[str]]:
        """A prompt as a request to the engine, and the texts that end its answer.

        A task with `repeats` asks one prompt several times, so each request draws from its own random stream.
        """
        given = dict(normalize_gen_kwargs(dict(settings), MAX_NEW_TOKENS))
        until, longest, drawn = (
            [*given.pop("until"), *self._end_of_text()],
            given.pop("max_gen_toks"),
            given.pop("do_sample"),
        )
        unknown = sorted(set(given) - set(SETTINGS))
        if unknown:
            raise ConfigError(
                f"generation_kwargs: {', '.join(unknown)}: not supported; possible are until, max_gen_toks, do_sample, "
                f"{', '.join(SETTINGS)}"
            )
        if longest >= self.max_length:
            raise ConfigError(
                f"generation_kwargs: max_gen_toks is {longest:,}, but the model's context has {self.max_length:,} "
                "tokens, the prompt included; give fewer"
            )
        penalty = self._assistant.generation_config.get("repetition_penalty")
        values = ({} if penalty is None else {"repetition_penalty": penalty}) | given
        if not drawn:
            values = {name: value for name, value in values.items() if name == "repetition_penalty"}
        tokenizer = self._assistant.tokenizer
        special = {text: tokenizer.backend.token_to_id(text) for text in until if text in tokenizer.special_tokens}
        ids = token_ids([*special.values(), *token_ids(self._assistant.generation_config.get("eos_token_id"))])
        request = GenerationRequest(
            prompt=tuple(self.tok_encode(context)[-(self.max_length - longest) :]),
            sampling=Sampling(max_new_tokens=longest, **values),
            stream=stream,
            # The answer is cut at all of these texts afterwards; here they only end it early.
            stop=tuple(text for text in until if text and text not in special)[:MAX_STOPS],
            stop_ids=frozenset(ids | {self.eot_token_id}),
        )
        return request, until

    def _end_of_text(self) -> list[str]:
        return [self._assistant.tokenizer.decode([self.eot_token_id], skip_special_tokens=False)]

    def apply_chat_template(self, chat_history: list[dict[str, str]], add_generation_prompt: bool = True) -> str:
        """A conversation as text. Without a generation prompt, its last message is one that the model continues.

        If the template refuses system messages, they are left out, as in HFLM, and a warning says so.

        Raises:
            ConfigError: the model has no chat template.
            DataError: the template refuses the conversation.
        """
        try:
            return self._rendered(chat_history, add_generation_prompt)
        except DataError as error:
            others = [message for message in chat_history if message["role"] != "system"]
            if len(others) == len(chat_history):
                raise
            text = self._rendered(others, add_generation_prompt)
            self._emit(Note(message=f"the system message is left out of a prompt: {error}", level=Level.WARNING))
            return text

    def _rendered(self, messages: Sequence[Mapping[str, str]], add_generation_prompt: bool) -> str:
        template = template_of(self._assistant.tokenizer)
        if template is None:
            raise ConfigError("the model has no chat template; run this task without one")
        if add_generation_prompt:
            return template.render(messages, add_generation_prompt=True)
        last = {**messages[-1], "content": messages[-1]["content"] + CONTINUED}
        text = template.render([*messages[:-1], last])
        before, mark, after = text.rpartition(CONTINUED.strip())
        if not mark:
            raise DataError("the chat template does not write the last message, so the model cannot continue it")
        # If the template trims messages, it would also have trimmed the end of this one.
        return before if after.startswith(" ") else before.rstrip()

    def chat_template(self, chat_template: bool | str = False) -> str | None:
        """The source of the template; None if no template is to be used."""
        return self._assistant.tokenizer.chat_template if chat_template else None

    @property
    def tokenizer_name(self) -> str:
        """A digest of tokenizer and template, by which the harness tells apart the prompts that it caches."""
        tokenizer = self._assistant.tokenizer
        content = f"{tokenizer.backend.to_str()}\0{tokenizer.chat_template}"
        return f"veneer-{hashlib.sha256(content.encode()).hexdigest()[:16]}"

    @torch.no_grad()
    def _loglikelihood_tokens(
        self, requests: Sequence[TokenPair], disable_tqdm: bool = True
    ) -> list[tuple[float, bool]]:
        """The log-probability of each continuation, and whether its tokens are the likeliest ones.

        Choices of one token after the same context are computed together.
        """
        groups: dict[tuple[int, ...], list[int]] = {}
        for number, (_, context, continuation) in enumerate(requests):
            if not 0 < len(continuation) <= self.max_length:
                raise DataError(
                    f"lm-eval: a continuation has {len(continuation):,} tokens, must be 1 to {self.max_length:,}, the "
                    "model's context"
                )
            groups.setdefault((len(context), *context, *continuation[:-1]), []).append(number)
        numbers = list(groups.values())
        examples = [self._example(*requests[one[0]][1:]) for one in numbers]
        logprobs, wrong = np.zeros(len(requests)), np.zeros(len(requests))
        model, done = self._assistant.model, 0
        stage = Stage(self._emit, "computing log-likelihoods for lm-eval", total=len(requests), unit="requests")
        with stage, evaluation_mode(model):
            for batches in grouped(examples):
                hidden, _ = target_states(model, batches)
                reads: list[tuple[int, int, int]] = []
                first = 0
                for batch, owners in zip(batches, numbers[done : done + len(batches)], strict=True):
                    reads += [
                        (first + place, token, owner)
                        for owner in owners
                        for place, token in enumerate(requests[owner][2])
                    ]
                    first += batch.supervised
                self._read(hidden, reads, logprobs, wrong)
                stage.advance(sum(map(len, numbers[done : done + len(batches)])))
                done += len(batches)
        return [(float(value), count == 0) for value, count in zip(logprobs, wrong, strict=True)]

    def _example(self, context: Sequence[int], continuation: Sequence[int]) -> Example:
        """A context with its continuation, cut from the left to one token more than the longest input."""
        tokens = np.array([*context, *continuation], dtype=np.int32)[-(self.max_length + 1) :]
        mask = np.zeros(len(tokens), dtype=bool)
        mask[-len(continuation) :] = True
        return Example(tokens, mask, "lm-eval")

    def _read(
        self,
        hidden: torch.Tensor,
        reads: Sequence[tuple[int, int, int]],
        logprobs: np.ndarray[Any, np.dtype[np.float64]],
        wrong: np.ndarray[Any, np.dtype[np.float64]],
    ) -> None:
        """Add log-probabilities of tokens to those of their requests.

        Args:
            hidden: the states that predict, `[predictions, dim]`.
            reads: for each read, the index of a prediction, a token, and the index of its request.
            logprobs, wrong: the sums of each request, which are changed: log-probabilities, and the number of tokens
                that are not the likeliest.
        """
        rows, tokens, owners = (np.array(column) for column in zip(*reads, strict=True))
        for start in range(0, len(hidden), CHUNK):
            scores = torch.log_softmax(self._assistant.model.logits(hidden[start : start + CHUNK]).float(), dim=-1)
            here = (rows >= start) & (rows < start + CHUNK)
            places = torch.from_numpy(rows[here] - start).to(scores.device)
            wanted = torch.from_numpy(tokens[here]).to(scores.device)
            np.add.at(logprobs, owners[here], scores[places, wanted].double().cpu().numpy())
            np.add.at(wrong, owners[here], (scores.argmax(-1)[places] != wanted).cpu().numpy())
