"""The fields of a request that determine how tokens are chosen, shared by chats and completions."""

from __future__ import annotations

import secrets
from dataclasses import dataclass, replace
from hashlib import sha256

from veneer.generation.request import MAX_STOPS, Constraint, GenerationRequest
from veneer.generation.sampling import MAX_BIAS, Sampling
from veneer.http_server.errors import ApiError
from veneer.http_server.fields import Fields
from veneer.serving.prompts import PromptEncoder

MOST_LISTED_TOKENS = 1024
"""The most tokens that `logit_bias` or `stop_token_ids` may list."""
LONGEST_STOP_CHARS = 1024
LEAST_SEED, LARGEST_SEED = -(2**63), 2**63 - 1
"""The accepted seeds: integers of 64 bits, as in OpenAI's interface."""
ENGINE_SEEDS = 2**31
"""The engine's seeds are from 0 to below this."""
LEAST_TOP_P = 1e-9
"""The value that is used for 0: only the likeliest token."""
REPETITION_PENALTIES = 0.01, 100.0
"""The least and the largest penalty of repetition."""

NEUTRAL_VALUES: dict[str, tuple[object, ...]] = {
    "add_generation_prompt": (True,),
    "allowed_token_ids": (),
    "bad_words": (),
    "cache_salt": (),
    "chat_template": (),
    "chat_template_kwargs": ({},),
    "continue_final_message": (False,),
    "documents": ([],),
    "early_stopping": (False,),
    "guided_choice": (),
    "guided_grammar": (),
    "guided_json": (),
    "guided_regex": (),
    "include_stop_str_in_output": (False,),
    "length_penalty": (1, 1.0),
    "priority": (0,),
    "prompt_logprobs": (),
    "return_token_ids": (False,),
    "skip_special_tokens": (True,),
    "structured_outputs": (),
    "truncate_prompt_tokens": (),
    "use_beam_search": (False,),
}
"""Fields that would change the answer and are not supported, each with the values at which it changes nothing."""


@dataclass(frozen=True, slots=True)
class SamplingFields:
    """How a request's tokens are chosen."""

    n: int
    """The number of answers to each prompt."""
    max_tokens: int | None
    """The longest answer; None lets it fill the context, or the cache if that is smaller."""
    seed: int
    """The first answer's seed; each further answer has the next one."""
    sampling: Sampling
    """All other settings; the number of tokens and the seed in it are set by `requests`."""
    stop: tuple[str, ...]
    stop_ids: frozenset[int] | None
    """The tokens that end the answer; None means the engine's."""

    def of_call(self) -> SamplingFields:
        """These fields for a forced call, without stop strings. Stop strings apply to the text of an answer, and a
        forced call has none; they would cut off the call."""
        return replace(self, stop=())

    def requests(
        self,
        prompt: tuple[int, ...],
        adapter: str | None,
        prompts: PromptEncoder,
        *,
        param: str,
        logprobs: int | None = None,
        prompt_logprobs: int | None = None,
        constraints: tuple[Constraint, ...] = (),
    ) -> list[GenerationRequest]:
        """An engine request for each of the `n` answers; they differ in their seeds.

        Args:
            prompt: the tokens to continue.
            adapter: the name of the adapter; None means the base.
            prompts: has the length of the context.
            param: the field that holds the prompt, for messages.
            logprobs: the number of alternatives with each new token.
            prompt_logprobs: the number of alternatives with each token of the prompt, which only the first of the
                requests scores.
            constraints: one for each answer, or none.

        Raises:
            ApiError: 400, prompt and answer are longer than the context, or the prompt is empty.
        """
        if not prompt:
            raise ApiError(400, f"{param}: there is nothing to continue; give at least one token", param=param)
        room = prompts.context - len(prompt)
        most = self.max_tokens or max(1, min(room, prompts.longest - len(prompt)))
        if most > room:
            raise prompts.too_long(len(prompt) + most, param)
        if self.sampling.min_new_tokens > most:
            raise ApiError(
                400,
                f"min_tokens: must be at most {most:,}, the answer's limit",
                param="min_tokens",
            )
        return [
            GenerationRequest(
                prompt=prompt,
                sampling=replace(self.sampling, max_new_tokens=most, seed=engine_seed(self.seed + number)),
                adapter=adapter,
                stop=self.stop,
                stop_ids=self.stop_ids,
                logprobs=logprobs,
                prompt_logprobs=None if number else prompt_logprobs,
                constraint=constraints[number] if constraints else None,
                cut_to_cache=self.max_tokens is None,
            )
            for number in range(self.n)
        ]


def read_sampling(
    fields: Fields, *, context: int, vocab_size: int, choices: int, stop_ids: frozenset[int], max_tokens: int | None
) -> SamplingFields:
    """Read the fields that chats and completions share, and refuse those that are not supported.

    Args:
        fields: the request.
        context: the most tokens of a prompt and its answer together.
        vocab_size: the number of tokens in the vocabulary.
        choices: the largest `n`.
        stop_ids: the tokens that end an answer, to which `stop_token_ids` adds.
        max_tokens: the longest answer that the request allows.

    Raises:
        ApiError: 400, a field is out of range or not supported.
    """
    for name, values in NEUTRAL_VALUES.items():
        fields.neutral(name, *values)
    n = fields.integer("n", 1, choices) or 1
    fields.neutral("best_of", n)  # the best `n` of `n` are all of them
    seed = fields.integer("seed", LEAST_SEED, LARGEST_SEED)
    least = fields.integer("min_tokens", 0, context) or 0
    ids = _stop_ids(fields, vocab_size)
    ignore_end = fields.flag("ignore_eos")
    return SamplingFields(
        n=n,
        max_tokens=max_tokens,
        seed=secrets.randbelow(ENGINE_SEEDS) if seed is None else seed,
        sampling=Sampling(
            max_new_tokens=max(1, least),
            min_new_tokens=least,
            logit_bias=_biases(fields, vocab_size),
            repetition_penalty=fields.number("repetition_penalty", *REPETITION_PENALTIES, 1.0),
            presence_penalty=fields.number("presence_penalty", -2.0, 2.0, 0.0),
            frequency_penalty=fields.number("frequency_penalty", -2.0, 2.0, 0.0),
            temperature=fields.number("temperature", 0.0, 2.0, 1.0),
            top_k=_top_k(fields, vocab_size),
            top_p=max(LEAST_TOP_P, fields.number("top_p", 0.0, 1.0, 1.0)),
            min_p=fields.number("min_p", 0.0, 1.0, 0.0),
        ),
        stop=_stops(fields),
        stop_ids=ids if ignore_end else stop_ids | ids if ids else None,
    )


def engine_seed(seed: int) -> int:
    """The engine's seed for a client's. One that is out of the engine's range is hashed into it. Cutting off the upper
    bits instead would give the same draws for seeds that differ only there, as seeds from a clock may."""
    if 0 <= seed < ENGINE_SEEDS:
        return seed
    return int.from_bytes(sha256(str(seed).encode()).digest()[:8]) % ENGINE_SEEDS


def _top_k(fields: Fields, vocab_size: int) -> int:
    # In vLLM's interface, -1 means "all".
    return max(0, fields.integer("top_k", -1, max(vocab_size, 1_000_000)) or 0)


def _stops(fields: Fields) -> tuple[str, ...]:
    value = fields.value("stop")
    stops = [value] if isinstance(value, str) else value
    if stops is None:
        return ()
    if not isinstance(stops, list) or not all(isinstance(stop, str) for stop in stops):
        raise fields.wrong("stop", "must be a string or a list of strings")
    if len(stops) > MAX_STOPS:
        raise fields.wrong("stop", f"{len(stops):,} strings; at most {MAX_STOPS} are accepted")
    wrong = [len(stop) for stop in stops if not 0 < len(stop) <= LONGEST_STOP_CHARS]
    if wrong:
        raise fields.wrong("stop", f"a string of {wrong[0]:,} characters; each must have 1 to {LONGEST_STOP_CHARS:,}")
    return tuple(stops)


def _stop_ids(fields: Fields, vocab_size: int) -> frozenset[int]:
    ids = fields.items("stop_token_ids") or []
    if len(ids) > MOST_LISTED_TOKENS or not all(type(token) is int and 0 <= token < vocab_size for token in ids):
        raise fields.wrong(
            "stop_token_ids", f"must be at most {MOST_LISTED_TOKENS:,} tokens from 0 to {vocab_size - 1:,}"
        )
    return frozenset(ids)


def _biases(fields: Fields, vocab_size: int) -> dict[int, float]:
    value = fields.value("logit_bias")
    if value is None:
        return {}
    rule = (
        f"must be an object of at most {MOST_LISTED_TOKENS:,} tokens, from 0 to {vocab_size - 1:,}, each with a number "
        f"from -{MAX_BIAS:g} to {MAX_BIAS:g}"
    )
    if not isinstance(value, dict) or len(value) > MOST_LISTED_TOKENS:
        raise fields.wrong("logit_bias", rule)
    biases: dict[int, float] = {}
    for token, bias in value.items():
        known = token.isascii() and token.isdigit() and len(token) < 10 and int(token) < vocab_size
        if not known or type(bias) not in (int, float) or not -MAX_BIAS <= bias <= MAX_BIAS:
            raise fields.wrong("logit_bias", rule)
        biases[int(token)] = float(bias)
    return biases
