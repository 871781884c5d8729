"""Scores of texts by a reward model: a base, and an adapter with a score head that `objective: reward` trained.

A text is a row in one of the forms of a file: `{"prompt": …, "completion": …}`, `{"messages": […]}` or `{"text": …}`.
It is formatted with the model's template and tokenised like a training row, and its score is read from its last token.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from veneer.adapters.adapter import Adapter
from veneer.adapters.beside import refuse_own_tokens, sharing_weights
from veneer.adapters.load import load_reward_adapter
from veneer.arguments import check_type
from veneer.data.encoded.chat import Encoder, Example
from veneer.data.encoded.encoding import encoder_of
from veneer.data.files.json_values import BadRow
from veneer.data.forms.formats import to_record
from veneer.data.forms.record import Record
from veneer.data.micro_batches.packing import pack
from veneer.data.problems import RowProblem, grouped
from veneer.errors import DataError, listing
from veneer.events import Level, Note, Stage, Subscriber, broadcast, ignore
from veneer.io.tokenizer import Tokenizer
from veneer.model.decoder import CausalLM
from veneer.model.language import LanguageModel
from veneer.model.mode import evaluation_mode
from veneer.planning.sampling import REWARDED_TOKENS
from veneer.text.counting import count_of
from veneer.training.objectives.reward import last_tokens
from veneer.training.over_model import hidden_states


@dataclass(frozen=True, slots=True)
class RewardModel:
    """A model whose adapter scores texts."""

    model: LanguageModel = field(repr=False)
    adapter: Adapter = field(repr=False)
    encoder: Encoder = field(repr=False)

    def scores(self, rows: Iterable[Mapping[str, Any]], *, subscribers: Sequence[Subscriber] = ()) -> list[float]:
        """The score of each text.

        Args:
            rows: the texts, in the forms of a file of rows.
            subscribers: called with every event: the progress.

        Raises:
            ConfigError: `rows` does not hold rows.
            DataError: a row holds no text, or cannot be formatted with the template; all such rows are named.
        """
        check_type("rows", rows, Iterable[Mapping[str, Any]])
        records, problems = list[Record](), list[RowProblem]()
        for number, row in enumerate(rows, start=1):
            check_type(f"row {number}", row, Mapping[str, Any])
            try:
                records.append(to_record(dict(row), f"row {number}"))
            except BadRow as problem:
                problems.append(RowProblem(f"row {number}", str(problem)))
        if problems:
            raise DataError(f"{count_of(len(problems), 'row')} cannot be scored:\n{grouped(problems)}")
        return self.scores_of(records, broadcast(subscribers))

    def scores_of(self, records: Sequence[Record], emit: Subscriber = ignore) -> list[float]:
        """The score of each record.

        Raises:
            DataError: see `scores`.
        """
        examples, context = [self.encoder.encode(record) for record in records], self.model.spec.max_positions
        beyond = [example.where for example in examples if len(example.tokens) > context]
        if beyond:
            longer = f"{count_of(len(beyond), 'text')} longer than the model's context of {context:,} tokens"
            message = f"{longer}, whose scores mean nothing; give shorter ones:\n{listing(beyond, limit=5)}"
            emit(Note(message=message, level=Level.WARNING))
        return self.scores_of_examples(examples, emit)

    @torch.no_grad()
    def scores_of_examples(self, examples: Sequence[Example], emit: Subscriber = ignore) -> list[float]:
        """The score of each text, given as tokens."""
        model, head = self.model, self.adapter.score
        assert head is not None, "a reward model has a score head"
        by_text = [0.0] * len(examples)
        share = not model.spec.by_length and model.flat
        with Stage(emit, "scoring", total=len(examples), unit="texts") as stage, evaluation_mode(model):
            for batch in pack(examples, REWARDED_TOKENS, share=share):
                hidden = hidden_states(model, batch)
                scores = head(hidden.index_select(0, last_tokens(batch).to(hidden.device)))
                for number, score in zip(batch.numbers, scores.tolist(), strict=True):
                    by_text[number] = score
                stage.advance(len(batch.numbers))
        return by_text


def reward_model_beside(model: CausalLM, adapter: str | Path, tokenizer: Tokenizer) -> RewardModel:
    """A reward model over a base that is already in memory and does not change: all weights of the base are shared.

    Args:
        model: a base without an adapter.
        adapter: the folder of the adapter.
        tokenizer: the tokenizer of the base.

    Raises:
        AdapterError: the adapter cannot be used, or has its own tokens, which the base's tokenizer does not make.
        ModelError: the tokenizer in its folder is damaged.
    """
    twin, folder = sharing_weights(model), Path(adapter)
    reward_model = with_reward_adapter(twin, folder, tokenizer)
    refuse_own_tokens(twin, model, folder, tokenizer)
    return reward_model


def with_reward_adapter(model: LanguageModel, folder: Path, tokenizer: Tokenizer) -> RewardModel:
    """A reward model over a base of its own, which is changed in place.

    Raises:
        AdapterError: see `load_adapter`.
    """
    adapter = load_reward_adapter(model, folder)
    model.requires_grad_(False).eval()
    return RewardModel(model, adapter, encoder_of(tokenizer))
