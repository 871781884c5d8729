"""How many tokens a request took: several answers to one prompt count it once."""

from __future__ import annotations

import pytest

from veneer.generation.request import Finished, FinishReason
from veneer.http_server.errors import ApiError
from veneer.http_server.fields import Fields
from veneer.serving.openai_api.usage import Usage, read_stream


def test_a_prompt_is_counted_once_and_its_answers_each() -> None:
    usage = Usage(answers_a_prompt=2)
    for number in (3, 0, 1, 2):
        usage.add(number, Finished(FinishReason.STOP, "", prompt_tokens=10, cached_tokens=4, new_tokens=number))
    assert usage.content == {
        "prompt_tokens": 20,
        "completion_tokens": 6,
        "total_tokens": 26,
        "prompt_tokens_details": {"cached_tokens": 8},
    }


def test_a_stream_says_whether_it_ends_with_the_usage() -> None:
    assert read_stream(Fields({})) == (False, False)
    assert read_stream(Fields({"stream": True})) == (True, False)
    assert read_stream(Fields({"stream": True, "stream_options": {"include_usage": True}})) == (True, True)
    for values in ({"stream_options": {}}, {"stream": True, "stream_options": {"continuous_usage_stats": True}}):
        with pytest.raises(ApiError):
            read_stream(Fields(values))
