"""Answers that must be JSON, or JSON of a schema: llguidance says at each token which tokens may come next."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from functools import cached_property
from typing import Any

import numpy as np
import torch
from llguidance import LLMatcher, LLTokenizer
from torch import Tensor

from veneer.errors import ConfigError
from veneer.http_server.errors import ApiError
from veneer.io.tokenizer import Tokenizer
from veneer.text.strict_json import to_text

WHITE_SPACE = r"[ \t\n]{1,20}"
"""White space between the parts of JSON: enough to indent, but limited, since a model may write nothing else."""


def as_rule(schema: Mapping[str, Any]) -> str:
    """A JSON schema as the right-hand side of a rule in a Lark grammar."""
    given = schema.get("x-guidance")
    own = given if isinstance(given, dict) else {}
    return "%json " + to_text({**schema, "x-guidance": {**own, "whitespace_pattern": WHITE_SPACE}})


class Grammar:
    """The tokens that may come next in an answer (`veneer.generation.request.Constraint`)."""

    def __init__(self, matcher: LLMatcher):
        self._matcher = matcher

    def restrict(self, scores: Tensor) -> None:
        """See `Constraint.restrict`."""
        mask = self._matcher.compute_bitmask()
        if self._matcher.is_error():
            # The mask would let the answer end here, as if it were complete.
            raise ConfigError(f"the answer cannot follow the schema: {_reason(self._matcher)}")
        allowed = np.unpackbits(np.frombuffer(mask, dtype=np.uint8), bitorder="little")
        scores.masked_fill_(torch.from_numpy(allowed[: len(scores)] == 0), float("-inf"))

    def accept(self, token: int) -> None:
        """See `Constraint.accept`."""
        self._matcher.consume_token(token)

    def copy(self) -> Grammar:
        """A copy that continues from here. It costs a fraction of preparing the schema."""
        return Grammar(self._matcher.deep_copy())


class Grammars:
    """Makes grammars from schemas for one tokenizer.

    Args:
        tokenizer: the model's tokenizer.
        vocab_size: the model's number of tokens, which may be another than the tokenizer's.
        stop_ids: tokens that end an answer; ids that the model does not have are ignored.
        schema_bytes: the size of the largest schema that is accepted.
    """

    def __init__(self, tokenizer: Tokenizer, vocab_size: int, stop_ids: Iterable[int], schema_bytes: int):
        # llguidance wants room for every token, also for those that the model has no row for.
        self._backend, self._tokens = tokenizer.backend, max(vocab_size, tokenizer.vocab_size)
        self._stop_ids = sorted(token for token in stop_ids if 0 <= token < vocab_size)
        self._schema_bytes = schema_bytes

    def of_schema(self, schema: Mapping[str, Any] | bool, param: str, around: str | None = None) -> Grammar:
        """The grammar that restricts an answer to a JSON schema.

        Args:
            schema: the schema.
            param: the field that holds it, for messages.
            around: a Lark grammar whose rules may refer to `answer`, the part that follows the schema; without it, the
                whole answer follows the schema.

        Raises:
            ApiError: 400, the schema is too large or not supported, the model has no token that ends an answer, or its
                tokenizer is of a kind that llguidance does not read.
        """
        if not self._stop_ids:
            raise ApiError(400, "this model has no token that ends an answer", param=param)
        if isinstance(schema, bool):  # llguidance accepts only objects: these allow any value, and no value
            schema = {} if schema else {"enum": []}
        text = to_text(schema)
        if len(text) > self._schema_bytes:
            raise ApiError(
                400,
                f"{param}: the schema has more than {self._schema_bytes:,} bytes, the most that are accepted",
                param=param,
            )
        tokenizer = self._readable_tokenizer(param)
        try:
            if around is None:
                grammar = LLMatcher.grammar_from_json_schema(text, overrides={"whitespace_pattern": WHITE_SPACE})
            else:
                grammar = LLMatcher.grammar_from_lark(f"{around}\nanswer: {as_rule(schema)}\n")
            matcher = LLMatcher(tokenizer, grammar, log_level=0)
        except ValueError as error:
            raise ApiError(400, f"{param}: the schema cannot be used: {error}", param=param) from error
        if not matcher.is_error():
            matcher.compute_bitmask()  # fails here for a schema that only refers to itself
        if matcher.is_error():
            raise ApiError(400, f"{param}: the schema cannot be used: {_reason(matcher)}", param=param)
        return Grammar(matcher)

    def _readable_tokenizer(self, param: str) -> LLTokenizer:
        try:
            return self._tokenizer
        except ValueError as error:
            raise ApiError(
                400,
                f"{param}: an answer of this model cannot follow a schema, because llguidance cannot read the model's "
                f"tokenizer: {error}",
                param=param,
            ) from error

    @cached_property
    def _tokenizer(self) -> LLTokenizer:
        return LLTokenizer(self._backend.to_str(), n_vocab=self._tokens, eos_token=self._stop_ids or None)


def _reason(matcher: LLMatcher) -> str:
    """What is wrong with a matcher, without the state of its parser and without its input."""
    first, *further = str(matcher.get_error()).split("\n")
    # An expression's error has several lines: its kind, the expression with a mark below, and the cause.
    causes = [line.removeprefix("error: ") for line in further if line.startswith("error: ")]
    return " ".join([first, *causes])
