"""Combined adapters equal PEFT's `add_weighted_adapter`, and are right where that is wrong or silent."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import peft
import pytest
import torch
from torch import Tensor

from helpers.adapters.saved_adapters import FOLDERS, NAMES, their_adapters
from helpers.models.tiny_models import (
    documents,
    largest_difference,
    ours,
    packed_logits,
    their_logits,
    tiny,
    tiny_llama,
)
from helpers.tensors import assert_same_tensors
from veneer.adapters.arithmetic import CombinationType, Majority
from veneer.adapters.combine import Combination, WeightedAdapter, combine_adapters
from veneer.adapters.files.store import read_content, read_spec, read_tensors, save_adapter
from veneer.adapters.load import load_adapter
from veneer.adapters.spec import LoraSpec
from veneer.enums import Bias
from veneer.errors import AdapterError

TEXTS = documents([21, 8, 1], seed=8)
WEIGHTS = (0.7, -0.4, 1.1)


def read(folder: Path, count: int, weights: Sequence[float] = WEIGHTS) -> list[WeightedAdapter]:
    return [WeightedAdapter.read(folder / name, weight) for name, weight in zip(FOLDERS[:count], weights, strict=False)]


def density(kind: CombinationType) -> float | None:
    return 0.6 if kind.sparse else None


def seed(kind: CombinationType, number: int) -> int:
    return number if kind.drops else 0


def updates_of(theirs: peft.PeftModel, name: str) -> dict[str, Tensor]:
    """Every update of an adapter as a matrix, by path."""
    found = {}
    for path, module in theirs.base_model.model.named_modules():
        if isinstance(module, peft.tuners.lora.LoraLayer):
            delta = module.get_delta_weight(name)
            found[path] = delta
    return found


def our_updates(adapters: list[WeightedAdapter], how: Combination) -> dict[str, Tensor]:
    found = {}
    for path, part in combine_adapters(adapters, how).modules:
        a, b = part.tensors().values()
        found[path] = (b @ a).t() if "lora_embedding_A" in part.tensors() else b @ a
    return found


@pytest.mark.parametrize(
    ("kind", "majority"),
    [(kind, majority) for kind in CombinationType for majority in list(Majority)[: 1 + kind.elects]],
)
def test_every_kind_equals_that_of_peft(kind: CombinationType, majority: Majority, tmp_path: Path) -> None:
    """The dropped elements too: the generator of a seed goes as torch's own does in PEFT."""
    ranks = [4, 4, 4] if kind.by_factors else [4, 6, 3]
    targets = NAMES if kind.by_svd or kind is CombinationType.CAT else [*NAMES, "embed_tokens"]
    theirs = their_adapters(tmp_path, [{"r": rank, "target_modules": targets} for rank in ranks])
    torch.manual_seed(11)
    theirs.add_weighted_adapter(
        list(FOLDERS), list(WEIGHTS), "sum", kind.value, density=density(kind), majority_sign_method=majority.value
    )
    how = Combination(kind=kind, density=density(kind), majority=majority, seed=seed(kind, 11))
    found, expected = our_updates(read(tmp_path, 3), how), updates_of(theirs, "sum")
    assert found.keys() == expected.keys()
    assert max(largest_difference(found[path], expected[path]) for path in expected) < 1e-5
    assert max(float(delta.abs().max()) for delta in expected.values()) > 0.05


@pytest.mark.parametrize(
    "kind",
    [CombinationType.CAT, CombinationType.SVD, CombinationType.TIES_SVD, CombinationType.DARE_TIES_SVD],
    ids=lambda kind: kind.value,
)
def test_embeddings_are_combined_as_peft_does(kind: CombinationType, tmp_path: Path) -> None:
    theirs = their_adapters(tmp_path, [{"target_modules": ["embed_tokens", "q_proj"]}] * 2)
    torch.manual_seed(5)
    theirs.add_weighted_adapter(list(FOLDERS[:2]), [0.5, 1.5], "sum", kind.value, density=density(kind))
    found = our_updates(
        read(tmp_path, 2, (0.5, 1.5)), Combination(kind=kind, density=density(kind), seed=seed(kind, 5))
    )
    expected = updates_of(theirs, "sum")
    assert max(largest_difference(found[path], expected[path]) for path in expected) < 1e-5


@pytest.mark.parametrize(
    ("family", "targets", "kind"),
    [
        ("gpt2", ["c_attn", "wte"], CombinationType.SVD),
        ("opt", ["q_proj", "embed_tokens"], CombinationType.DARE_TIES_SVD),
    ],
)
def test_an_embedding_of_any_name_is_combined_as_peft_does(
    family: str, targets: list[str], kind: CombinationType, tmp_path: Path
) -> None:
    settings: list[dict[str, Any]] = [{"target_modules": targets, "fan_in_fan_out": family == "gpt2"}] * 2
    theirs = their_adapters(tmp_path, settings, tiny(family))
    torch.manual_seed(5)
    theirs.add_weighted_adapter(list(FOLDERS[:2]), [0.5, 1.5], "sum", kind.value, density=density(kind))
    result = combine_adapters(
        read(tmp_path, 2, (0.5, 1.5)), Combination(kind=kind, density=density(kind), seed=seed(kind, 5))
    )
    (tmp_path / "sum").mkdir()
    save_adapter(tmp_path / "sum", result, base="owner/base")
    read_again = updates_of(peft.PeftModel.from_pretrained(tiny(family), tmp_path / "sum"), "default")
    expected = updates_of(theirs, "sum")
    assert max(largest_difference(read_again[path], expected[path]) for path in expected) < 1e-5


def test_an_embedding_is_not_added_to_a_linear_layer(tmp_path: Path) -> None:
    their_adapters(tmp_path, [{"target_modules": ["embed_tokens"]}])
    (one,) = read(tmp_path, 1)
    ends = {"lora_embedding_A": "lora_A.weight", "lora_embedding_B": "lora_B.weight"}
    parts = {name.rpartition(".")[::2]: tensor for name, tensor in one.tensors.items() if "lora_" in name}
    other = {f"{path}.{ends[end]}": tensor for (path, end), tensor in parts.items()}
    with pytest.raises(AdapterError, match=r"model\.embed_tokens: an embedding in one and a linear layer in another"):
        combine_adapters([one, replace(one, name="other", tensors=other)], Combination(kind=CombinationType.CAT))


def test_dropped_elements_are_those_of_peft_where_projections_are_fused(tmp_path: Path) -> None:
    settings: list[dict[str, Any]] = [{"target_modules": ["qkv_proj", "o_proj", "gate_up_proj", "down_proj"]}] * 2
    theirs = their_adapters(tmp_path, settings, tiny("phi3"))
    kind = CombinationType.DARE_LINEAR
    torch.manual_seed(5)
    theirs.add_weighted_adapter(list(FOLDERS[:2]), [0.5, 1.5], "sum", kind.value, density=0.6)
    found = our_updates(read(tmp_path, 2, (0.5, 1.5)), Combination(kind=kind, density=0.6, seed=5))
    expected = updates_of(theirs, "sum")
    assert max(largest_difference(found[path], expected[path]) for path in expected) < 1e-5


@pytest.mark.filterwarnings("ignore:Model has `tie_word_embeddings:UserWarning")
def test_the_update_that_a_tied_head_shares_with_its_embedding_is_read_by_peft_too(tmp_path: Path) -> None:
    tied = {"tie_word_embeddings": True}
    settings: dict[str, Any] = {"target_modules": ["q_proj", "embed_tokens"], "ensure_weight_tying": True}
    their_adapters(tmp_path, [settings], tiny_llama(changes=tied))
    result = combine_adapters(read(tmp_path, 1), Combination(kind=CombinationType.CAT))
    assert set(result.spec.target_modules) == {"q_proj", "embed_tokens", "model.embed_tokens", "lm_head"}
    (tmp_path / "sum").mkdir()
    save_adapter(tmp_path / "sum", result, base="owner/base")
    theirs = updates_of(peft.PeftModel.from_pretrained(tiny_llama(changes=tied), tmp_path / "sum"), "default")
    expected = our_updates(read(tmp_path, 1), Combination(kind=CombinationType.CAT))
    assert theirs.keys() == expected.keys() >= {"model.embed_tokens", "lm_head"}
    assert max(largest_difference(theirs[path], expected[path]) for path in expected) < 1e-5


def test_layers_that_only_some_adapters_have(tmp_path: Path) -> None:
    theirs = their_adapters(tmp_path, [{"target_modules": ["q_proj"]}, {"target_modules": ["q_proj", "up_proj"]}])
    for kind in (CombinationType.LINEAR, CombinationType.CAT, CombinationType.SVD, CombinationType.TIES):
        theirs.add_weighted_adapter(list(FOLDERS[:2]), [2.0, 3.0], kind.value, kind.value, density=density(kind))
        how = Combination(kind=kind, density=density(kind))
        found, expected = our_updates(read(tmp_path, 2, (2.0, 3.0)), how), updates_of(theirs, kind.value)
        assert found.keys() == expected.keys()
        assert max(largest_difference(found[path], expected[path]) for path in expected) < 1e-5


@pytest.mark.parametrize("kind", CombinationType, ids=lambda kind: kind.value)
def test_what_is_saved_is_what_was_combined_for_peft_and_for_us(kind: CombinationType, tmp_path: Path) -> None:
    ranks = [{"rank_pattern": {"down_proj": 2}, "alpha_pattern": {"q_proj": 3}}] * 2
    their_adapters(tmp_path, ranks)
    adapters = read(tmp_path, 2)
    result = combine_adapters(adapters, Combination(kind=kind, density=density(kind), seed=seed(kind, 3)))
    folder = tmp_path / "sum"
    folder.mkdir()
    save_adapter(folder, result, base="owner/base")
    theirs = peft.PeftModel.from_pretrained(tiny_llama(), folder).eval()
    model = ours(tiny_llama(), tmp_path / "base")
    load_adapter(model, folder)
    with torch.no_grad():
        expected = packed_logits(model, TEXTS)
        assert largest_difference(their_logits(theirs, TEXTS), expected) < 1e-5 * float(expected.abs().max())
    deltas = updates_of(theirs, "default")
    for path, part in result.modules:
        a, b = part.tensors().values()
        assert largest_difference(deltas[path], b @ a) < 1e-6


def exact_sum(adapters: list[WeightedAdapter], path: str) -> Tensor:
    found = [(adapter, adapter.update(path)) for adapter in adapters]
    return sum(u.weight * u.scale * u.b.double() @ u.a.double() for _, u in found if u is not None)  # type: ignore[return-value]


@pytest.mark.parametrize("kind", [CombinationType.CAT, CombinationType.SVD], ids=lambda kind: kind.value)
def test_rslora_keeps_its_size(kind: CombinationType, tmp_path: Path) -> None:
    """PEFT's result is √rank times too large: it keeps `use_rslora` with alpha = rank."""
    theirs = their_adapters(tmp_path, [{"use_rslora": True}] * 2)
    adapters = read(tmp_path, 2)
    how = Combination(kind=kind, rank=8 if kind.by_svd else None)
    path = "model.layers.0.self_attn.q_proj"
    exact = exact_sum(adapters, path)
    assert largest_difference(our_updates(adapters, how)[path], exact) < 1e-5
    theirs.add_weighted_adapter(list(FOLDERS[:2]), list(WEIGHTS[:2]), "sum", kind.value, svd_rank=8)
    ratio = updates_of(theirs, "sum")[path].norm() / exact.norm()
    assert float(ratio) == pytest.approx(8**0.5, rel=1e-4)


def test_one_adapter_alone_is_pruned_as_asked(tmp_path: Path) -> None:
    """PEFT adds it linearly, unpruned."""
    theirs = their_adapters(tmp_path, [{}])
    theirs.add_weighted_adapter(["first"], [1.0], "sum", "magnitude_prune", density=0.5)
    path = "model.layers.0.self_attn.q_proj"
    adapters = read(tmp_path, 1, (1.0,))
    result = dict(combine_adapters(adapters, Combination(kind=CombinationType.MAGNITUDE_PRUNE, density=0.5)).modules)[
        path
    ]
    a, _ = result.tensors().values()
    assert int((a == 0).sum()) == a.numel() // 2
    layer = theirs.get_submodule(f"base_model.model.{path}")
    assert int((layer.lora_A["sum"].weight == 0).sum()) == 0


def test_one_adapter_alone_is_brought_to_a_smaller_rank_best(tmp_path: Path) -> None:
    their_adapters(tmp_path, [{"r": 8}])
    adapters = read(tmp_path, 1, (1.0,))
    found = our_updates(adapters, Combination(kind=CombinationType.SVD, rank=3))
    for path, delta in found.items():
        exact = exact_sum(adapters, path)
        left, values, right = torch.linalg.svd(exact, full_matrices=False)
        assert largest_difference(delta, left[:, :3] * values[:3] @ right[:3]) < 1e-5


REFUSED: dict[str, tuple[dict[str, Any], str]] = {
    "dora": ({"use_dora": True}, "DoRA"),
    "saved modules": ({"modules_to_save": ["norm"]}, "saved whole"),
    "unconverted start": ({"init_lora_weights": "olora"}, "olora"),
}


@pytest.mark.parametrize("what", REFUSED)
def test_what_peft_would_lose_is_refused(what: str, tmp_path: Path) -> None:
    extra, reason = REFUSED[what]
    their_adapters(tmp_path, [{"target_modules": ["q_proj"]}, {"target_modules": ["q_proj"]} | extra])
    with pytest.raises(AdapterError, match=reason) as error:
        combine_adapters(read(tmp_path, 2), Combination(kind=CombinationType.CAT))
    assert str(tmp_path / "second") in str(error.value)
    assert str(tmp_path / "first has") not in str(error.value)


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"bias": Bias.LORA_ONLY}, "trained biases"),
        ({"factor_bias": True}, "lora_bias"),
        ({"trainable_tokens": {"model.embed_tokens": (3, 4)}}, "trained tokens"),
    ],
)
def test_what_stands_beside_updates_is_refused(changes: dict[str, Any], reason: str, tmp_path: Path) -> None:
    their_adapters(tmp_path, [{}])
    (one,) = read(tmp_path, 1)
    with pytest.raises(AdapterError, match=reason):
        combine_adapters([replace(one, spec=replace(one.spec, **changes))], Combination(kind=CombinationType.CAT))


def test_factors_that_are_not_of_the_configurations_rank_are_refused(tmp_path: Path) -> None:
    """They would be scaled by a rank that they do not have."""
    their_adapters(tmp_path, [{"target_modules": ["q_proj", "v_proj"]}])
    (one,) = read(tmp_path, 1)
    other = replace(one, spec=replace(one.spec, rank=2))
    with pytest.raises(AdapterError, match=r"q_proj: factors of shapes .* but adapter_config\.json says rank 2"):
        combine_adapters([other], Combination(kind=CombinationType.CAT))
    name = next(name for name in one.tensors if name.endswith("v_proj.lora_B.weight"))
    halved = replace(one, tensors={key: tensor for key, tensor in one.tensors.items() if key != name})
    with pytest.raises(AdapterError, match=r"v_proj\.lora_A\.weight and no .*v_proj\.lora_B\.weight"):
        combine_adapters([halved], Combination(kind=CombinationType.CAT))


@pytest.mark.parametrize("kind", [kind for kind in CombinationType if kind.by_factors], ids=lambda kind: kind.value)
def test_unequal_ranks_are_refused_by_layer(kind: CombinationType, tmp_path: Path) -> None:
    """Also where the largest ranks are equal, on which PEFT fails in the middle."""
    their_adapters(tmp_path, [{"rank_pattern": {"q_proj": 2}}, {"rank_pattern": {"v_proj": 2}}])
    with pytest.raises(AdapterError, match=r"q_proj: ranks 2, 4") as error:
        combine_adapters(read(tmp_path, 2), Combination(kind=kind, density=density(kind)))
    assert "v_proj: ranks 2, 4" in str(error.value)
    assert "down_proj" not in str(error.value)


def test_settings_that_mean_nothing_are_refused(tmp_path: Path) -> None:
    their_adapters(tmp_path, [{}])
    adapters = read(tmp_path, 1)
    for how, reason in (
        (Combination(kind=CombinationType.TIES), "needs a density"),
        (Combination(kind=CombinationType.DARE_LINEAR, density=0.0), "above 0"),
        (Combination(kind=CombinationType.DARE_LINEAR, density=1.5), "at most 1"),
        (Combination(kind=CombinationType.SVD, density=0.5), "has no density"),
        (Combination(kind=CombinationType.LINEAR, rank=2), "has no rank setting"),
        (Combination(kind=CombinationType.SVD, rank=0), "at least 1"),
        (Combination(kind=CombinationType.SVD, seed=2**70), "below 2"),
        (Combination(kind=CombinationType.TIES, density=0.5, seed=9), "ties has no seed: it draws nothing"),
        (Combination(kind=CombinationType.SVD, majority=Majority.FREQUENCY), "svd has no majority: it elects no"),
    ):
        with pytest.raises(AdapterError, match=reason):
            combine_adapters(adapters, how)
    with pytest.raises(AdapterError, match="no adapter"):
        combine_adapters([], Combination())
    with pytest.raises(AdapterError, match="finite"):
        combine_adapters([replace(adapters[0], weight=float("nan"))], Combination())


@pytest.mark.parametrize("kind", CombinationType, ids=lambda kind: kind.value)
def test_a_weight_that_leaves_float32_is_refused_by_its_value(kind: CombinationType, tmp_path: Path) -> None:
    their_adapters(tmp_path, [{}, {}])
    with pytest.raises(AdapterError, match=r"q_proj: times 1e\+300, -0\.4 they leave float32\nGive smaller weights"):
        combine_adapters(read(tmp_path, 2, (1e300, -0.4)), Combination(kind=kind, density=density(kind)))


def test_adapters_of_different_bases_are_refused(tmp_path: Path) -> None:
    their_adapters(tmp_path, [{}])
    (one,) = read(tmp_path, 1)
    tensors = {name: torch.cat((t, t), 1) if "lora_A" in name else t for name, t in one.tensors.items()}
    with pytest.raises(AdapterError, match="different bases"):
        combine_adapters([one, replace(one, name="other", tensors=tensors)], Combination(kind=CombinationType.CAT))


def test_names_stay_names_and_paths_paths(tmp_path: Path) -> None:
    their_adapters(tmp_path, [{"target_modules": ["q_proj"]}, {"target_modules": ["v_proj"]}])
    one, two = read(tmp_path, 2)
    assert set(combine_adapters([one, two], Combination(kind=CombinationType.CAT)).spec.target_modules) == {
        "q_proj",
        "v_proj",
    }
    by_expression = replace(two, spec=replace(two.spec, target_modules=r".*\.v_proj"))
    targets = combine_adapters([one, by_expression], Combination(kind=CombinationType.CAT)).spec.target_modules
    assert "model.layers.1.self_attn.v_proj" in targets


def test_a_seed_is_a_result(tmp_path: Path) -> None:
    their_adapters(tmp_path, [{}] * 2)
    adapters = read(tmp_path, 2)

    def tensors(seed: int) -> dict[str, Tensor]:
        return combine_adapters(adapters, Combination(kind=CombinationType.DARE_TIES, density=0.5, seed=seed)).tensors()

    first, again, other = tensors(1), tensors(1), tensors(2)
    assert_same_tensors(first, again)
    assert not all(torch.equal(first[name], other[name]) for name in first)


def test_the_files_of_a_result_are_read_back(tmp_path: Path) -> None:
    their_adapters(tmp_path, [{}] * 2)
    result = combine_adapters(read(tmp_path, 2), Combination(kind=CombinationType.CAT))
    (tmp_path / "sum").mkdir()
    save_adapter(tmp_path / "sum", result, base="owner/base")
    spec, config = read_spec(tmp_path / "sum"), read_content(tmp_path / "sum")
    assert (spec.rank, spec.scale, config["base_model_name_or_path"]) == (8, 1.0, "owner/base")
    assert isinstance(spec, LoraSpec)
    assert read_tensors(tmp_path / "sum").keys() == result.tensors().keys()
