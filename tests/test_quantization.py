"""Quantised models as files, both ways: what transformers and bitsandbytes write and read is what we read and write."""

from __future__ import annotations

import json
import subprocess
import sys
import warnings
from itertools import product
from pathlib import Path
from typing import Any

import pytest
import torch
from click.testing import CliRunner
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from helpers.models.tiny import chat_tokenizer, run_config, tree
from helpers.models.tiny_models import documents, largest_difference, packed_logits, saved, their_logits, tiny_llama
from helpers.support import smollm2_gguf
from veneer.assistant.load import open_assistant
from veneer.cli import main
from veneer.config import QuantSection
from veneer.enums import Method, Scheme
from veneer.errors import ConfigError, ModelError, OutputError
from veneer.events import Note, ignore
from veneer.io.checkpoint import open_checkpoint
from veneer.io.digests import BackgroundDigests
from veneer.io.files import claimed
from veneer.loading.forms import WeightForm
from veneer.loading.how import Loading
from veneer.loading.load import load_model
from veneer.loading.stored import stored_quantisation
from veneer.model.decoder import CausalLM
from veneer.model.families.choose import spec_from_hf
from veneer.model.leaves import DenseLinear
from veneer.planning.base import base_bytes
from veneer.planning.plan import Plan
from veneer.planning.setup import Setup
from veneer.quant.packed import PackedLinear
from veneer.quantization import quantize
from veneer.training.plan import plan_run
from veneer.training.run import train
from veneer.training.supposed_steps import SupposedRows

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # bitsandbytes warns about optional kernels and deprecated torch calls
    bnb = pytest.importorskip("bitsandbytes")
    pytest.importorskip("accelerate")
    from transformers import AutoModelForCausalLM, BitsAndBytesConfig

BITS4: dict[str, dict[str, Any]] = {
    "nf4": {"bnb_4bit_quant_type": "nf4"},
    "nf4-nested": {"bnb_4bit_quant_type": "nf4", "bnb_4bit_use_double_quant": True},
    "fp4": {"bnb_4bit_quant_type": "fp4"},
    "fp4-nested": {"bnb_4bit_quant_type": "fp4", "bnb_4bit_use_double_quant": True},
}
SKIPPING = ["lm_head", "down_proj", "model.layers.1.self_attn"]


def theirs(source: Path, dtype: torch.dtype = torch.bfloat16, **settings: Any) -> nn.Module:
    """transformers' model of a directory, quantised by bitsandbytes while it is loaded if `settings` say so."""
    config = BitsAndBytesConfig(**settings) if settings else None
    extra: dict[str, Any] = {} if config is None else {"quantization_config": config}
    model: nn.Module = AutoModelForCausalLM.from_pretrained(source, dtype=dtype, device_map="cpu", **extra)
    return model


def their_weights(model: nn.Module) -> dict[str, Tensor]:
    """Decoded weights of their quantised layers: code × absmax, since their decode is wrong for some widths."""
    found = {}
    for path, layer in model.named_modules():
        if isinstance(layer, bnb.nn.Linear8bitLt):
            scales = layer.weight.SCB if layer.weight.SCB is not None else layer.state.SCB
            found[path] = bnb.functional.int8_vectorwise_dequant(layer.weight.data, scales)
        elif isinstance(layer, bnb.nn.Linear4bit):
            state = layer.weight.quant_state
            absmax = state.absmax
            if state.nested:
                absmax = bnb.functional.dequantize_blockwise(absmax, state.state2) + state.offset
            codes = layer.weight.data.view(torch.uint8).view(-1)
            index = torch.stack((codes >> 4, codes & 15), dim=1).view(-1)[: state.shape.numel()].long()
            scale = absmax.repeat_interleave(state.blocksize)[: state.shape.numel()]
            found[path] = (state.code[index] * scale).view(state.shape)
    return found


def our_weights(model: CausalLM) -> dict[str, Tensor]:
    """Decoded weights of our quantised layers."""
    return {
        path: layer.dequantize(torch.float32)
        for path, layer in model.named_modules()
        if isinstance(layer, PackedLinear)
    }


def assert_equal_weights(ours: CausalLM, other: nn.Module) -> None:
    own, their_own = our_weights(ours), their_weights(other)
    assert set(own) == set(their_own)
    for path, weight in own.items():
        assert torch.equal(weight, their_own[path]), path
    state = other.state_dict()
    for name, parameter in ours.named_parameters():
        assert torch.equal(parameter, state[name].to(parameter.dtype)), name


def written(path: Path, **changes: Any) -> Path:
    """A tiny model in bfloat16 with a tokenizer, as files."""
    saved(tiny_llama(changes=changes).bfloat16(), path)
    chat_tokenizer().save(str(path / "tokenizer.json"))
    return path


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny model, in bfloat16, whose widths no block divides, with biases."""
    return written(tmp_path_factory.mktemp("source"), hidden_size=80, intermediate_size=100, attention_bias=True)


# ------------------------------------------------------------------------------------------------------------ reading


@pytest.mark.parametrize("kind", BITS4)
def test_a_4_bit_model_of_transformers_is_read_to_the_bit(kind: str, source: Path, tmp_path: Path) -> None:
    model = theirs(source, load_in_4bit=True, **BITS4[kind])
    model.save_pretrained(tmp_path)  # type: ignore[operator]
    for form in (WeightForm.FROZEN, WeightForm.QUANTIZED):
        ours = load_model(open_checkpoint(tmp_path), Loading(form=form))
        assert len(our_weights(ours)) == 2 * 7
        assert_equal_weights(ours, model)
    assert packed_logits(ours, documents([7])).isfinite().all()


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
def test_an_8_bit_model_of_transformers_is_read_to_the_bit(dtype: torch.dtype, source: Path, tmp_path: Path) -> None:
    model = theirs(source, dtype, load_in_8bit=True)
    model.save_pretrained(tmp_path)  # type: ignore[operator]
    ours = load_model(open_checkpoint(tmp_path), Loading(dtype=dtype))
    assert len(our_weights(ours)) == 2 * 7
    assert_equal_weights(ours, model)


@pytest.mark.parametrize("settings", [{"load_in_4bit": True, **BITS4["nf4-nested"]}, {"load_in_8bit": True}])
def test_modules_that_they_skipped_are_dense(settings: dict[str, Any], source: Path, tmp_path: Path) -> None:
    model = theirs(source, llm_int8_skip_modules=SKIPPING, **settings)
    model.save_pretrained(tmp_path)  # type: ignore[operator]
    checkpoint = open_checkpoint(tmp_path)
    ours = load_model(checkpoint)
    assert_equal_weights(ours, model)
    dense = {path for path, layer in ours.named_modules() if isinstance(layer, DenseLinear)} - {"lm_head"}
    attention = {f"model.layers.1.self_attn.{leaf}_proj" for leaf in "qkvo"}
    assert dense == {f"model.layers.{layer}.mlp.down_proj" for layer in (0, 1)} | attention
    stored = stored_quantisation(checkpoint, spec_from_hf(checkpoint.config))
    assert stored is not None
    assert set(stored.skip_modules) == dense


def test_a_head_that_they_quantised_is_decoded(source: Path, tmp_path: Path) -> None:
    model = theirs(source, load_in_4bit=True, llm_int8_skip_modules=["q_proj"], **BITS4["nf4"])
    model.save_pretrained(tmp_path)  # type: ignore[operator]
    ours = load_model(open_checkpoint(tmp_path))
    assert isinstance(ours.lm_head, DenseLinear)
    assert torch.equal(ours.lm_head.weight, their_weights(model)["lm_head"].bfloat16())


@pytest.mark.parametrize("storage", ["bfloat16", "float32"])
def test_codes_stored_as_another_dtype_are_the_same_bytes(storage: str, source: Path, tmp_path: Path) -> None:
    model = theirs(source, load_in_4bit=True, bnb_4bit_quant_storage=storage, **BITS4["nf4"])
    model.save_pretrained(tmp_path)  # type: ignore[operator]
    assert_equal_weights(load_model(open_checkpoint(tmp_path)), model)


@pytest.mark.parametrize("block", [32, 64, 128, 256, 512, 1024, 2048, 4096])
@pytest.mark.parametrize("nested", [False, True])
def test_every_block_size_is_read(block: int, nested: bool, source: Path, tmp_path: Path) -> None:
    """transformers quantises in blocks of 64 alone, but reads and writes any: the states are put in by hand."""
    checkpoint = open_checkpoint(source)
    tensors = load_file(source / "model.safetensors")
    expected = {}
    for name in [name for name in tensors if name.endswith("_proj.weight")]:
        weight = tensors.pop(name)
        packed, state = bnb.functional.quantize_4bit(
            weight, blocksize=block, compress_statistics=nested, quant_type="fp4"
        )
        tensors[name] = packed
        tensors |= {f"{name}.{part}": tensor for part, tensor in state.as_dict(packed=True).items()}
        scales = state.absmax
        if nested:
            scales = bnb.functional.dequantize_blockwise(scales, state.state2) + state.offset
        index = torch.stack((packed.view(-1) >> 4, packed.view(-1) & 15), dim=1).view(-1)[: weight.numel()].long()
        values = state.code[index] * scales.repeat_interleave(block)[: weight.numel()]
        expected[name.removesuffix(".weight")] = values.view(weight.shape)
    save_file(tensors, tmp_path / "model.safetensors")
    (tmp_path / "config.json").write_text(json.dumps(dict(checkpoint.config)))
    ours = load_model(open_checkpoint(tmp_path))
    for path, weight in our_weights(ours).items():
        assert torch.equal(weight, expected[path])


def test_a_quantised_model_names_its_tensors_as_a_dense_one(source: Path, tmp_path: Path) -> None:
    quantize(str(source), tmp_path / "q")
    dense, packed = open_checkpoint(source), open_checkpoint(tmp_path / "q")
    assert packed.names() == dense.names()
    assert all(packed.shape(name) == dense.shape(name) for name in dense.names())
    name = "model.layers.0.mlp.up_proj.weight"
    with pytest.raises(ModelError, match=name):
        packed.read(name, torch.float32)
    with pytest.raises(ModelError, match="not stored quantised"):
        packed.read_stored("model.norm.weight")
    assert dense.stored == {}


# --------------------------------------------------------------------------------------------------------- what is bad


def spoiled(source: Path, path: Path, **changes: Tensor | None) -> Path:
    """A quantised model with parts of one weight put in place of others, or (None) taken out."""
    quantize(str(source), path)
    name = "model.layers.0.mlp.up_proj.weight"
    tensors = load_file(path / "model.safetensors")
    for part, tensor in changes.items():
        full = f"{name}.{part}" if part != "weight" else name
        full = full.replace("STATE", "quant_state.bitsandbytes__nf4")
        if tensor is None:
            del tensors[full]
        else:
            tensors[full] = tensor
    save_file(tensors, path / "model.safetensors")
    return path


def text(value: Any) -> Tensor:
    return torch.tensor(list(json.dumps(value).encode()), dtype=torch.uint8)


GOOD: dict[str, Any] = {
    "quant_type": "nf4", "blocksize": 64, "dtype": "bfloat16", "shape": [100, 80], "nested_blocksize": 256,
    "nested_dtype": "float32", "nested_offset": 0.1,
}  # fmt: skip


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"absmax": None}, "lacks parts of a quantised weight: .*absmax"),
        ({"nested_quant_map": None}, "lacks parts of a quantised weight: .*nested_quant_map"),
        ({"weight": None}, "lacks parts of a quantised weight"),
        ({"STATE": torch.tensor([1, 2], dtype=torch.uint8)}, "is damaged"),
        ({"STATE": text([])}, "is damaged"),
        ({"STATE": text({"blocksize": 64})}, "is damaged"),
        ({"STATE": text(GOOD | {"nested_blocksize": 128})}, "nested scales in blocks of 128"),
        ({"STATE": text(GOOD | {"shape": [100, 81]})}, r"shape \[100, 81\], config.json says \[100, 80\]"),
        ({"STATE": text(GOOD | {"blocksize": 32})}, "stored in different formats"),
        ({"quant_map": torch.zeros(16)}, "mean other values"),
        ({"absmax": torch.zeros(3, dtype=torch.uint8)}, "scale codes"),
        ({"weight": torch.zeros(7, 1, dtype=torch.uint8)}, "codes"),
    ],
)
def test_damaged_parts_are_refused_by_name(
    changes: dict[str, Tensor | None], message: str, source: Path, tmp_path: Path
) -> None:
    path = spoiled(source, tmp_path / "q", **changes)
    with pytest.raises(ModelError, match=message):
        load_model(open_checkpoint(path))


def test_another_block_size_is_refused(source: Path, tmp_path: Path) -> None:
    path = tmp_path / "q"
    quantize(str(source), path)
    tensors = load_file(path / "model.safetensors")
    for name in [name for name in tensors if name.endswith("bitsandbytes__nf4")]:
        state = json.loads(bytes(tensors[name].tolist()))
        tensors[name] = text(state | {"blocksize": 16})
    save_file(tensors, path / "model.safetensors")
    with pytest.raises(ModelError, match="blocks of 16 weights"):
        load_model(open_checkpoint(path))


def test_another_layout_of_8_bits_is_refused(source: Path, tmp_path: Path) -> None:
    path = tmp_path / "q"
    quantize(str(source), path, quant=QuantSection(scheme=Scheme.INT8))
    tensors = load_file(path / "model.safetensors")
    tensors["model.layers.0.mlp.up_proj.weight_format"] = torch.tensor(2, dtype=torch.uint8)
    save_file(tensors, path / "model.safetensors")
    with pytest.raises(ModelError, match="weight_format is 2"):
        open_checkpoint(path)


def test_a_model_quantised_by_something_else_is_refused(source: Path, tmp_path: Path) -> None:
    config = {**open_checkpoint(source).config, "quantization_config": {"quant_method": "gptq", "bits": 4}}
    (tmp_path / "config.json").write_text(json.dumps(config))
    with pytest.raises(ModelError, match="'gptq', which is not read"):
        open_checkpoint(tmp_path)


# ------------------------------------------------------------------------------------------------------------ writing

WRITTEN: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "nf4": ({"double_quant": False}, {"load_in_4bit": True, **BITS4["nf4"]}),
    "fp4": ({"scheme": "fp4", "double_quant": False}, {"load_in_4bit": True, **BITS4["fp4"]}),
    "int8": ({"scheme": "int8"}, {"load_in_8bit": True}),
    "skipping": (
        {"double_quant": False, "skip_modules": ("down_proj", "model.layers.1.self_attn.q_proj")},
        {
            "load_in_4bit": True,
            "llm_int8_skip_modules": ["lm_head", "down_proj", "model.layers.1.self_attn.q_proj"],
            **BITS4["nf4"],
        },
    ),
}


@pytest.mark.parametrize("kind", WRITTEN)
def test_what_is_written_is_what_transformers_writes(kind: str, source: Path, tmp_path: Path) -> None:
    own, their_own = WRITTEN[kind]
    quantize(str(source), tmp_path / "ours", quant=QuantSection.model_validate(own))
    theirs(source, bnb_4bit_compute_dtype="bfloat16", **their_own).save_pretrained(tmp_path / "theirs")  # type: ignore[operator]
    found, expected = (load_file(tmp_path / name / "model.safetensors") for name in ("ours", "theirs"))
    assert set(found) == set(expected)
    for name, tensor in found.items():
        assert tensor.dtype == expected[name].dtype, name
        assert tensor.shape == expected[name].shape, name
        assert torch.equal(tensor.view(torch.uint8) if tensor.ndim else tensor, expected[name].view(torch.uint8)
                           if tensor.ndim else expected[name]), name  # fmt: skip
    settings = [
        json.loads((tmp_path / name / "config.json").read_text())["quantization_config"] for name in ("ours", "theirs")
    ]
    skipping = [sorted(one.pop("llm_int8_skip_modules") or ["lm_head"]) for one in settings]
    compute = [one.pop("bnb_4bit_compute_dtype") for one in settings]
    assert settings[0] == settings[1]
    assert "lm_head" in skipping[0]
    assert kind == "int8" or compute[0] == compute[1]


@pytest.mark.parametrize(
    ("scheme", "block", "double_quant"),
    [*product(("nf4", "fp4"), (32, 64, 4096), (False, True)), ("int8", 64, True)],
)
def test_what_is_written_opens_in_transformers_and_here_with_equal_weights(
    scheme: str, block: int, double_quant: bool, source: Path, tmp_path: Path
) -> None:
    values = {"scheme": scheme, "block": block, "double_quant": double_quant, "skip_modules": ["o_proj"]}
    quant = QuantSection.model_validate(values)
    done = quantize(str(source), tmp_path / "q", quant=quant)
    ours = load_model(open_checkpoint(tmp_path / "q"))
    assert len(our_weights(ours)) == done.layers == 2 * 6
    assert_equal_weights(ours, theirs(tmp_path / "q"))
    direct = load_model(open_checkpoint(source), Loading(form=WeightForm.QUANTIZED, quant=quant))
    for path, weight in our_weights(direct).items():
        assert torch.equal(weight, our_weights(ours)[path])
    assert done.bytes == sum(tensor.nbytes for tensor in load_file(tmp_path / "q" / "model.safetensors").values())


def test_transformers_computes_with_it_what_we_compute(tmp_path: Path) -> None:
    """Widths that the block divides, where their forward is right; in evaluation it repacks, so in training mode."""
    written(tmp_path / "source", hidden_size=128, intermediate_size=192)
    for quant in (QuantSection(), QuantSection(scheme=Scheme.FP4)):
        path = tmp_path / quant.scheme.value
        quantize(str(tmp_path / "source"), path, quant=quant, dtype="float32")
        ours = load_model(open_checkpoint(path), Loading(dtype=torch.float32)).eval()
        other = theirs(path, torch.float32).train()
        texts = documents([9, 14])
        with torch.no_grad():
            assert largest_difference(packed_logits(ours, texts), their_logits(other, texts)) < 1e-4


def test_a_tied_model_is_written_without_a_head(tmp_path: Path) -> None:
    written(tmp_path / "source", tie_word_embeddings=True)
    quantize(str(tmp_path / "source"), tmp_path / "q")
    assert "lm_head.weight" not in load_file(tmp_path / "q" / "model.safetensors")
    assert_equal_weights(load_model(open_checkpoint(tmp_path / "q")), theirs(tmp_path / "q"))


def test_the_command_writes_tokenizer_and_settings_too(tiny_model: Path, tmp_path: Path) -> None:
    path = tmp_path / "q"
    argv = ["quantize", "--model", str(tiny_model), "--output", str(path), "--set", "quant.scheme=fp4", "--json"]
    done = CliRunner().invoke(main, argv, catch_exceptions=False)
    assert done.exit_code == 0, done.output
    facts = json.loads(done.stdout)
    assert facts["layers"] == 14
    assert facts["quant"]["scheme"] == "fp4"
    assert 4.1 < facts["bits"] < 4.3
    checkpoint = open_checkpoint(path)
    assert checkpoint.config["quantization_config"]["bnb_4bit_quant_type"] == "fp4"
    assert checkpoint.tokenizer().encode("What is it?") == open_checkpoint(tiny_model).tokenizer().encode("What is it?")
    assert checkpoint.generation_config == open_checkpoint(tiny_model).generation_config
    plain = CliRunner().invoke(main, [*argv[:3], "--output", str(tmp_path / "r")], catch_exceptions=False)
    assert "14 linear layers in nf4" in plain.stdout


def test_what_cannot_be_quantised_is_refused_and_nothing_is_left(source: Path, tmp_path: Path) -> None:
    int8 = QuantSection(scheme=Scheme.INT8, block=128)
    with pytest.raises(ConfigError, match=r"quant.block(.|\n)*dtype 'int4' is unknown"):
        quantize(str(source), tmp_path / "q", quant=int8, dtype="int4")
    with pytest.raises(ConfigError, match="did you mean 'up_proj'"):
        quantize(str(source), tmp_path / "q", quant=QuantSection(skip_modules=("upp_proj",)))
    assert not (tmp_path / "q").exists()
    quantize(str(source), tmp_path / "q")
    with pytest.raises(OutputError, match="not empty"):
        quantize(str(source), tmp_path / "q")
    with pytest.raises(ConfigError, match="already quantised"):
        quantize(str(tmp_path / "q"), tmp_path / "r")
    argv = ["quantize", "--model", str(source), "--output", str(tmp_path / "s"), "--set", "lora.rank=4"]
    done = CliRunner().invoke(main, argv)
    assert done.exit_code == 2
    assert "settings of the section quant here, not lora" in done.stderr
    assert sorted(path.name for path in tmp_path.iterdir()) == ["q"]


def test_an_output_that_cannot_be_written_is_refused_before_a_weight_is_read(source: Path, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    said: list[object] = []
    for output in (tmp_path / "file" / "q", Path("/proc/none/q"), tmp_path / ("x" * 300)):
        with pytest.raises(OutputError, match="cannot be"):
            quantize(str(source), output, subscribers=[said.append])
    with pytest.raises(OutputError, match="is a mounted file system"):
        quantize(str(source), "/", subscribers=[said.append])
    assert said == []


def test_two_models_for_one_folder_are_told_apart_before_a_weight_is_read(source: Path, tmp_path: Path) -> None:
    said: list[object] = []
    with claimed(tmp_path / "q"), pytest.raises(OutputError, match="another process is writing there; wait for it"):
        quantize(str(source), tmp_path / "q", subscribers=[said.append])
    assert said == []
    assert list(tmp_path.iterdir()) == []


def test_the_folder_may_be_a_link(source: Path, tmp_path: Path) -> None:
    (tmp_path / "there").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "there")
    assert quantize(str(source), tmp_path / "link").output == tmp_path / "there"
    assert open_checkpoint(tmp_path / "link").stored


def test_files_that_cannot_be_read_any_more_are_told_as_the_models(
    source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def gone(digests: BackgroundDigests) -> dict[str, str]:
        raise FileNotFoundError(2, "No such file or directory", "model.safetensors")

    monkeypatch.setattr(BackgroundDigests, "result", gone)
    with pytest.raises(ModelError, match=r"model\.safetensors: cannot be read: No such file"):
        quantize(str(source), tmp_path / "q")
    assert not (tmp_path / "q").exists()


# ------------------------------------------------------------------------------------------------- in runs and plans


@pytest.mark.parametrize("scheme", ["nf4", "fp4", "int8"])
@pytest.mark.parametrize("method", ["lora", "qlora"])
def test_an_adapter_is_trained_beside_it_as_beside_the_model_quantised_while_loading(
    method: str, scheme: str, tiny_model: Path, tiny_data: Path, tmp_path: Path
) -> None:
    settings = [f"quant.scheme={scheme}", "quant.skip_modules=[o_proj]", "train.steps=2", "method=qlora"]
    direct = train(run_config(tiny_model, tiny_data, tmp_path / "direct", *settings))
    quant = QuantSection.model_validate({"scheme": scheme, "skip_modules": ["o_proj"]})
    quantize(str(tiny_model), tmp_path / "q", quant=quant, dtype="float32")
    notes: list[str] = []
    stored = train(
        run_config(tmp_path / "q", tiny_data, tmp_path / "stored", "train.steps=2", f"method={method}"),
        emit=lambda event: notes.append(event.message) if isinstance(event, Note) else None,
    )
    assert any(f"is stored quantised ({scheme}, 2 of its linear layers dense)" in note for note in notes)
    files = [tree(result.output)["adapter_model.safetensors"] for result in (direct, stored)]
    assert files[0] == files[1]
    assert stored.plan.setup.quantized
    parameters = sum(p.nbytes for name, p in stored.model.named_parameters() if "lora_" not in name)
    packed = sum(module.nbytes for module in stored.model.modules() if isinstance(module, PackedLinear))
    assert base_bytes(stored.plan.setup) == parameters + packed
    opened = open_assistant(str(tmp_path / "q"), adapter=stored.output)
    assert len(our_weights(opened.model)) == 12


def test_full_fine_tuning_of_it_is_refused_before_anything_is_read(
    tiny_model: Path, tiny_data: Path, tmp_path: Path
) -> None:
    quantize(str(tiny_model), tmp_path / "q")
    config = run_config(tmp_path / "q", tiny_data, tmp_path / "run", "method=full")
    with pytest.raises(ConfigError, match=r"quantised weights \(nf4\), but method full trains all"):
        train(config)
    with pytest.raises(ConfigError, match="method full"):
        load_model(open_checkpoint(tmp_path / "q"), Loading(form=WeightForm.TRAINABLE))
    with pytest.raises(ConfigError, match="method full"):
        plan_run(config, ignore, device="cpu", rows=SupposedRows())


def test_a_start_that_needs_the_weights_as_they_were_is_refused(
    tiny_model: Path, tiny_data: Path, tmp_path: Path
) -> None:
    quantize(str(tiny_model), tmp_path / "q")
    with pytest.raises(ConfigError, match="loftq needs the weights before quantisation"):
        train(run_config(tmp_path / "q", tiny_data, tmp_path / "run", "method=qlora", "lora.init=loftq"))


@pytest.mark.parametrize("settings", [{}, {"scheme": "int8"}, {"skip_modules": ["model.layers.0.mlp.up_proj"]}])
def test_a_plan_from_its_configuration_alone_counts_its_bytes(
    settings: dict[str, Any], tiny_model: Path, tmp_path: Path
) -> None:
    quantize(str(tiny_model), tmp_path / "q", quant=QuantSection.model_validate(settings))
    config = run_config(tmp_path / "q" / "config.json", Path("-"), tmp_path / "run", "compute.dtype=bfloat16")
    plan = plan_run(config, ignore, device="cpu", rows=SupposedRows(tokens=64, longest=64))
    assert isinstance(plan, Plan)
    model = load_model(open_checkpoint(tmp_path / "q"))
    packed = sum(module.nbytes for module in model.modules() if isinstance(module, PackedLinear))
    assert base_bytes(plan.setup) == packed + sum(parameter.nbytes for parameter in model.parameters())


def test_setups_of_other_methods_know_nothing_of_layers_to_skip() -> None:
    spec = spec_from_hf(tiny_llama().config.to_dict())
    of = Setup(spec=spec, method=Method.LORA, dtype=torch.bfloat16, quant=QuantSection(skip_modules=("nothing",)))
    assert not of.quantized
    assert base_bytes(of) == 2 * (of.linear_weights + of.other_weights)


# --------------------------------------------------------------------------------------------------- memory and speed

_PEAK = """
import sys
from pathlib import Path
from veneer.quantization import quantize
from veneer.io.checkpoint import open_checkpoint
from veneer.quant.four_bit import QuantLinear
import torch

def memory(field):
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(field))

open_checkpoint(sys.argv[1]).tokenizer()
QuantLinear.from_weight(torch.randn(600, 1000))
Path("/proc/self/clear_refs").write_text("5")  # the peak is that of what follows (not ru_maxrss, which is inherited)
before = memory("VmRSS")
done = quantize(sys.argv[1], sys.argv[2])
print(before, memory("VmHWM"), done.bytes)
"""


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="the system does not say a process's peak")
def test_quantising_takes_the_quantised_model_and_its_largest_tensor(tmp_path: Path) -> None:
    run = subprocess.run(
        [sys.executable, "-c", _PEAK, str(smollm2_gguf()), str(tmp_path / "q")],
        capture_output=True,
        text=True,
        check=True,
    )
    before, after, size = (int(number) for number in run.stdout.split())
    largest = 49152 * 576 * 2
    assert after > before + size / 2
    assert after - before < size + largest
