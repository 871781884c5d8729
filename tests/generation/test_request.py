from __future__ import annotations

import pytest

from veneer.errors import ConfigError, DataError
from veneer.generation.request import MAX_LOGPROBS, MAX_STOPS, GenerationRequest


def test_requests_out_of_range() -> None:
    with pytest.raises(DataError, match="at least one token"):
        GenerationRequest(prompt=())
    with pytest.raises(ConfigError, match="logprobs: 21"):
        GenerationRequest(prompt=(1,), logprobs=21)
    with pytest.raises(ConfigError, match="stop"):
        GenerationRequest(prompt=(1,), stop=("a", ""))


def test_everything_up_to_the_limits_is_taken() -> None:
    stops = tuple(f"stop {number}" for number in range(MAX_STOPS))
    request = GenerationRequest(prompt=(1,), logprobs=MAX_LOGPROBS, prompt_logprobs=0, stop=stops)
    assert (request.logprobs, request.stop) == (MAX_LOGPROBS, stops)
    with pytest.raises(ConfigError, match="stop"):
        GenerationRequest(prompt=(1,), stop=(*stops, "one more"))
