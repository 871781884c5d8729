"""Settings that are left out are those of transformers."""

from __future__ import annotations

from transformers import GptOssConfig

from veneer.defaults import GPT_OSS_SCALING


def test_the_scaling_of_gpt_oss_is_that_of_transformers() -> None:
    theirs = dict(GptOssConfig().rope_parameters)
    theta = theirs.pop("rope_theta")
    assert theirs == dict(GPT_OSS_SCALING)
    assert theta == 150_000.0
