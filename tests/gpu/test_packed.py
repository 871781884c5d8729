"""Products with packed weights in Triton equal those with the decoded weight in float64, but for one rounding."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from random import Random

import pytest
import torch
from torch import Tensor

from helpers.cards import as_on_a_card
from veneer.adapters.layers.linear import LoraLinear
from veneer.gpu import dispatch, few_rows, packed
from veneer.gpu.packed import packed_product
from veneer.model.leaves import outputs_of
from veneer.native.stored import StoredMatrix
from veneer.products import LowRank
from veneer.quant.codes import CodeBook
from veneer.quant.four_bit import QuantConfig, QuantLinear
from veneer.quant.packed import PackedLinear
from veneer.quant.rowwise import RowwiseLinear


@pytest.fixture
def draws(seed: int) -> Random:
    return Random(seed)


def assert_rounded_once(found: Tensor, exact: Tensor) -> None:
    """`found` is float64 `exact` up to its own rounding and that of float32 sums."""
    assert found.dtype == torch.float16
    assert found.shape == exact.shape
    sums = 2.0**-18 * exact.abs().max()
    assert bool(((found.double() - exact).abs() <= 2.0**-11 * exact.abs() + sums).all())


def exact_product(x: Tensor, layer: PackedLinear, update: LowRank | None = None) -> Tensor:
    exact = x.double() @ layer.decode(x.dtype, None).double().t()
    if layer.bias is not None:
        exact += layer.bias.to(x.dtype).double()
    if update is not None:
        exact += update.scale * update.left.double() @ update.right.double().t()
    return exact


def update_of(rows: int, columns: int, rank: int) -> LowRank:
    """An update whose left side is a part of a wider matrix, as where several layers share an input."""
    wide = torch.randn(rows, rank + 5).half()
    return LowRank(wide[:, 3 : 3 + rank], torch.randn(columns, rank).half(), 0.7)


def of(update: LowRank | None) -> few_rows.LowRankParts | None:
    return None if update is None else (update.left, update.right, update.scale)


@pytest.mark.parametrize("nested", [False, True])
@pytest.mark.parametrize("block", [32, 64, 512, 4096])
def test_a_product_with_four_bits_is_rounded_once(block: int, nested: bool, draws: Random) -> None:
    rows, columns = draws.randint(1, 16), draws.randint(1, 40)
    depth = block * draws.randint(1, max(1, 640 // block))
    weight = torch.randn(columns, depth) * torch.rand(columns, 1) * 3
    book = draws.choice(list(CodeBook))
    layer = QuantLinear.from_weight(weight, config=QuantConfig(block=block, double_quant=nested, codebook=book))
    x = torch.randn(rows, depth).half()
    print(rows, columns, depth, book)
    assert_rounded_once(packed_product(x, layer.weight_as_stored(), None, None), exact_product(x, layer))


@pytest.mark.parametrize("rows", [1, 2, 15, 16])
def test_every_number_of_rows_and_every_rank_of_an_update(rows: int, draws: Random) -> None:
    columns, rank = draws.randint(33, 70), {1: 1, 2: 16, 15: 37, 16: 129}[rows]
    layer = QuantLinear.from_weight(torch.randn(columns, 320), torch.randn(columns))
    x, update = torch.randn(rows, 320).half(), update_of(rows, columns, rank)
    print(rows, columns, rank)
    found = packed_product(x, layer.weight_as_stored(), layer.bias, of(update))
    assert_rounded_once(found, exact_product(x, layer, update))


@pytest.mark.parametrize("depth", [1, 83, 256, 300])
def test_a_product_with_eight_bits_is_rounded_once(depth: int, draws: Random) -> None:
    rows, columns = draws.randint(1, 16), draws.randint(1, 40)
    layer = RowwiseLinear.from_weight(torch.randn(columns, depth), torch.randn(columns))
    x, update = torch.randn(rows, depth).half(), update_of(rows, columns, 3)
    print(rows, columns, depth)
    found = packed_product(x, layer.weight_as_stored(), layer.bias, of(update))
    assert_rounded_once(found, exact_product(x, layer, update))


def test_a_row_is_that_of_the_decoded_weight_and_nothing_else() -> None:
    """With rows of the unit matrix the products are the decoded weights themselves, each in its place."""
    layer = QuantLinear.from_weight(torch.randn(35, 128))
    columns = torch.randperm(128)[:16]
    found = packed_product(torch.eye(128).half()[columns], layer.weight_as_stored(), None, None)
    assert torch.equal(found, layer.decode(torch.float16, None)[:, columns].t())


@dataclass
class Taken:
    """The products that the kernel made."""

    rows: list[int] = field(default_factory=list)


@pytest.fixture
def card(monkeypatch: pytest.MonkeyPatch) -> Iterator[Taken]:
    """Let the kernel take float16 tensors of the CPU, as its interpreter can; what it was given."""
    taken = Taken()

    class Kernels:
        @staticmethod
        def packed_product(
            x: Tensor, weight: StoredMatrix, bias: Tensor | None, update: few_rows.LowRankParts | None
        ) -> Tensor:
            taken.rows.append(len(x))
            return packed_product(x, weight, bias, update)

    as_on_a_card(monkeypatch)
    monkeypatch.setattr(few_rows, "triton_accepts", lambda x: x.is_contiguous())
    monkeypatch.setattr(few_rows, "triton_kernels", lambda x: Kernels)
    monkeypatch.setattr(few_rows, "packed_choice", lambda device, dtype: dispatch.GpuChoice(True, ""))
    return taken


@torch.no_grad()
@pytest.mark.parametrize("kept", [False, True])
def test_the_layers_take_it_for_a_few_rows(kept: bool, card: Taken) -> None:
    """Whether the decoded weight is kept too does not matter: the bits are those of the kernel."""
    bases = [
        QuantLinear.from_weight(torch.randn(40, 192)), QuantLinear.from_weight(torch.randn(24, 192), torch.randn(24)),
        RowwiseLinear.from_weight(torch.randn(33, 192)),
    ]  # fmt: skip
    if kept:
        for base in bases:
            base.keep_decoded(torch.float16)
    layers = [LoraLinear(base, torch.randn(4, 192) / 8, torch.randn(base.out_features, 4), scale=0.5) for base in bases]
    x = torch.randn(5, 192).half()
    plain = bases[1](x)
    assert_rounded_once(plain, exact_product(x, bases[1]))
    assert card.rows == [5]
    for found in (outputs_of(layers, x), [layer(x) for layer in layers]):
        for y, layer in zip(found, layers, strict=True):
            down = (x.float() @ layer.lora_A.half().float().t()).half()
            # cuBLAS would round x Aᵀ too, and torch on a CPU sums it in another order.
            update = LowRank(down, layer.lora_B.half(), layer.scale)
            torch.testing.assert_close(y.double(), exact_product(x, layer.base, update), rtol=2e-3, atol=2e-2)
    assert card.rows == [5] * 7


@torch.no_grad()
def test_what_the_kernel_does_not_take_is_decoded(card: Taken) -> None:
    whole, odd = QuantLinear.from_weight(torch.randn(40, 192)), QuantLinear.from_weight(torch.randn(40, 97))
    x = torch.randn(17, 192).half()
    for layer, given in (
        (whole, x), (whole, x[:3].float()), (whole, x[:0]), (odd, x[:3, :97].contiguous()),
        (whole, torch.randn(192, 3).half().t()), (whole, torch.randn(3 * 192 + 1).half()[1:].view(3, 192)),
    ):  # fmt: skip
        found = layer(given)
        torch.testing.assert_close(found.double(), exact_product(given, layer), rtol=2e-3, atol=2e-2)
    right = torch.randn(4, 40).half().t()
    found = whole.product(x[:3], LowRank(torch.randn(3, 4).half(), right))
    assert found.shape == (3, 40)
    assert card.rows == []


def test_gradients_go_by_the_decoded_weight(card: Taken) -> None:
    layer = QuantLinear.from_weight(torch.randn(40, 192))
    x = torch.randn(3, 192).half().requires_grad_()
    grad = torch.randn(3, 40).half()
    y = layer(x)
    (found,) = torch.autograd.grad(y, x, grad)
    assert card.rows == [3]
    exact = grad.double() @ layer.decode(torch.float16, None).double()
    torch.testing.assert_close(found.double(), exact, rtol=2e-3, atol=2e-2)


def test_the_trial_of_the_kernel_notices_a_wrong_one(monkeypatch: pytest.MonkeyPatch) -> None:
    device = torch.device("cpu")

    class Wrong:
        @staticmethod
        def packed_product(*given: object) -> Tensor:
            return packed_product(*given) * 1.02  # type: ignore[arg-type]

    class Right:
        packed_product = staticmethod(packed_product)

    for kernels, right in ((Right, True), (Wrong, False)):
        monkeypatch.setattr(few_rows, "triton_kernels", lambda x, kernels=kernels: kernels)
        assert few_rows.is_right(device, torch.float16) is right


def test_both_know_how_many_rows_there_may_be() -> None:
    assert few_rows.MOST_ROWS == packed.TILE_ROWS
