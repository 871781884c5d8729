"""Which linear layers loading leaves as they are."""

from __future__ import annotations

import pytest

from veneer.config import QuantSection
from veneer.errors import ConfigError
from veneer.loading.forms import WeightForm
from veneer.loading.how import Loading

PATHS = ("model.layers.0.self_attn.q_proj", "model.layers.0.mlp.up_proj")
SKIPPING = QuantSection(skip_modules=("up_proj",))


def test_what_is_quantised_on_loading_is_all_but_the_skipped_layers() -> None:
    assert Loading(form=WeightForm.QUANTIZED).dense(PATHS, stored=False) == frozenset()
    assert Loading(form=WeightForm.QUANTIZED, quant=SKIPPING).dense(PATHS, stored=False) == {PATHS[1]}


def test_nothing_is_quantised_in_another_form_or_where_the_files_hold_quantised_weights() -> None:
    for form in (WeightForm.FROZEN, WeightForm.TRAINABLE):
        assert Loading(form=form, quant=SKIPPING).dense(PATHS, stored=False) == set(PATHS)
    assert Loading(form=WeightForm.QUANTIZED, quant=SKIPPING).dense(PATHS, stored=True) == set(PATHS)


def test_a_layer_that_is_not_there_cannot_be_skipped() -> None:
    how = Loading(form=WeightForm.QUANTIZED, quant=QuantSection(skip_modules=("c_attn",)))
    with pytest.raises(ConfigError, match="c_attn"):
        how.dense(PATHS, stored=False)
