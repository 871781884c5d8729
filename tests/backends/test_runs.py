"""Runs over models that transformers computes, by the commands that every run has: the loss is theirs, adapters are
PEFT's both ways, merged models open in transformers."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from click.testing import CliRunner, Result
from peft import LoraConfig, PeftModel, get_peft_model
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM, BitsAndBytesConfig, PreTrainedModel

from helpers.models.hf_models import SHAPES, their_loss, their_model, write_hf_model
from helpers.models.tiny import examples, rows, run_config, tree, write_rows
from helpers.models.tiny_models import documents, largest_difference, their_logits
from veneer.adapters.adapter_set import AdapterSet
from veneer.adapters.files.store import save_adapter
from veneer.adapters.inject import inject
from veneer.adapters.load import load_adapter
from veneer.adapters.spec import LoraSpec
from veneer.assistant.load import open_assistant
from veneer.backends.load import load_hf, load_language_model
from veneer.cli import main
from veneer.config import ComputeSection
from veneer.data.micro_batches.packing import pack
from veneer.enums import Backend, Dtype, Init, Method, Scaling, Variant
from veneer.errors import AdapterError, ConfigError, ModelError
from veneer.io.checkpoint import open_checkpoint
from veneer.loading.forms import WeightForm
from veneer.loading.how import Loading
from veneer.model.hf import HfModel
from veneer.model.language import LanguageModel
from veneer.quant.packed import PackedLinear
from veneer.run_folder import RunFolder
from veneer.training.over_model import OverModel
from veneer.training.run import train

FLOAT32 = ComputeSection(device="cpu", dtype=Dtype.FLOAT32, threads=1)
TEXTS = documents([9, 24, 3], seed=4)
SETTINGS = ("lora.rank=4", "train.learning_rate=0.01", "train.steps=8", "train.examples_per_step=20",
            "compute.dtype=float32", "compute.threads=1", "data.held_out=0.2")  # fmt: skip

FORMAT = {"merged": ("--dtype", "float32"), "peft": ()}
"""The format of the weights; an adapter's are in float32."""


def invoke(*argv: object) -> Result:
    return CliRunner().invoke(main, [str(part) for part in argv])


def done(*argv: object) -> Result:
    result = invoke(*argv)
    assert result.exit_code == 0, (result.output, result.exception)
    return result


def command(model: Path, data: Path, output: Path, method: str, *settings: str) -> list[object]:
    own = {setting.partition("=")[0]: setting for setting in (*SETTINGS, *settings)}  # a setting has one value
    flags = [flag for setting in own.values() for flag in ("--set", setting)]
    return [
        "train",
        "--model",
        model,
        "--data",
        data,
        "--output",
        output,
        "--method",
        method,
        "--device",
        "cpu",
        *flags,
    ]


def events(run: Path, kind: str) -> list[dict[str, Any]]:
    return [event for event in RunFolder(run).events() if event["event"] == kind]


# Transposed layers and experts as one tensor are the hard ones; the others go the same ways.
EVERY = [pytest.param(kind, marks=() if kind in ("gpt2", "deepseek_v3") else pytest.mark.slow) for kind in SHAPES]


@pytest.fixture(scope="module", params=EVERY)
def kind(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(scope="module")
def model(kind: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_hf_model(tmp_path_factory.mktemp(kind) / "model", kind)


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_rows(tmp_path_factory.mktemp("data") / "rows.jsonl", rows(20))


@pytest.fixture(scope="module")
def lora(model: Path, data: Path) -> Path:
    done(*command(model, data, model.parent / "lora", "lora"))
    return model.parent / "lora"


@pytest.fixture(scope="module")
def qlora(model: Path, data: Path) -> Path:
    done(*command(model, data, model.parent / "qlora", "qlora"))
    return model.parent / "qlora"


@torch.no_grad()
def our_logits(model: LanguageModel, texts: list[list[int]] = TEXTS) -> torch.Tensor:
    tokens = torch.tensor([token for text in texts for token in text])
    positions = torch.cat([torch.arange(len(text)) for text in texts])
    return model.logits(model.documents(tokens, positions, [len(text) for text in texts]))


def loss_of(theirs: torch.nn.Module, model: Path, data: Path) -> float:
    found = examples(model, data)
    with torch.no_grad():
        total = sum(float(their_loss(theirs, one.tokens.tolist(), one.loss_mask.tolist())) for one in found)
    return total / sum(one.supervised for one in found)


@pytest.fixture
def theirs(model: Path) -> PreTrainedModel:
    return their_model(model)


# --------------------------------------------------------------------------------------------------------- the commands


def test_a_run_starts_at_transformers_own_loss_and_learns(
    kind: str, model: Path, data: Path, tmp_path: Path, theirs: PreTrainedModel
) -> None:
    output = tmp_path / "run"
    result = done(*command(model, data, output, "lora", "data.held_out=0.0"))
    losses = [event["loss"] for event in events(output, "StepDone")]
    assert losses[0] == pytest.approx(loss_of(theirs, model, data), rel=1e-5)
    assert losses[-1] < losses[0] - 0.1
    said = [event["message"] for event in events(output, "Note")]
    unknown = f"model_type '{kind}' is computed by transformers (veneer's own decoder does not know it"
    assert sum(unknown in one for one in said) == 1
    assert any("carry no adapter: experts are one tensor" in one for one in said) is (kind == "deepseek_v3")
    assert any("not planned, because transformers computes the model" in one for one in said)
    assert "is computed by transformers" in result.stdout + result.stderr


@pytest.mark.parametrize("method", ["lora", "qlora"])
def test_an_adapter_opens_in_peft_with_equal_scores(
    method: str, kind: str, model: Path, request: pytest.FixtureRequest
) -> None:
    run: Path = request.getfixturevalue(method)
    assistant = open_assistant(str(model), adapter=run, compute=FLOAT32)
    base = their_model(model)
    if method == "qlora":
        held_as_ours(base, assistant.model)
    wrapped = PeftModel.from_pretrained(base, run).eval()
    expected = their_logits(wrapped, TEXTS)
    assert largest_difference(our_logits(assistant.model), expected) < 1e-5 * max(1.0, float(expected.abs().max()))
    with wrapped.disable_adapter():
        assert largest_difference(expected, their_logits(wrapped, TEXTS)) > 1e-3
    turned = json.loads((run / "adapter_config.json").read_text(encoding="utf-8"))["fan_in_fan_out"]
    assert turned is (kind == "gpt2")


@torch.no_grad()
def held_as_ours(base: PreTrainedModel, model: LanguageModel) -> None:
    """Put the weights into transformers' model that our quantised base decodes to."""
    assert isinstance(model, HfModel)
    for line in model.spec.linears:
        part = model.get_submodule(line.path)
        held: Any = dict(part.named_children()).get("base", part)
        weight = held.dequantize(torch.float32)
        base.get_submodule(line.path).get_parameter("weight").copy_(weight.t() if line.transposed else weight)


def test_evaluation_gives_the_losses_of_base_and_adapter(
    model: Path, data: Path, lora: Path, theirs: PreTrainedModel
) -> None:
    result = done("evaluate", "--model", model, "--data", data, "--adapter", lora, "--device", "cpu", "--dtype",
                  "float32", "--max-new-tokens", 8, "--json")  # fmt: skip
    report = json.loads(result.stdout)
    measured = {who: next(m["value"] for m in report[who] if m["name"] == "loss") for who in ("base", "adapter")}
    assert measured["base"] == pytest.approx(loss_of(theirs, model, data), rel=1e-5)
    wrapped = PeftModel.from_pretrained(theirs, lora).eval()
    assert measured["adapter"] == pytest.approx(loss_of(wrapped, model, data), rel=1e-5)
    assert measured["adapter"] < measured["base"]


@pytest.mark.parametrize("method", ["lora", "qlora"])
def test_a_merged_model_opens_in_transformers_with_the_adapters_scores(
    method: str, model: Path, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    run: Path = request.getfixturevalue(method)
    before = tree(model)
    done("export", "--model", model, "--adapter", run, "--output", tmp_path / "out", "--dtype", "float32")
    live = our_logits(open_assistant(str(model), adapter=run, compute=FLOAT32).model)
    merged = their_model(tmp_path / "out")
    assert largest_difference(their_logits(merged, TEXTS), live) < 2e-5 * max(1.0, float(live.abs().max()))
    again = open_assistant(str(tmp_path / "out"), compute=FLOAT32)
    assert largest_difference(our_logits(again.model), live) < 2e-5 * max(1.0, float(live.abs().max()))
    assert load_file(tmp_path / "out" / "model.safetensors").keys() == load_file(model / "model.safetensors").keys()
    assert tree(model) == before


@pytest.mark.parametrize("method", ["lora", "qlora"])
def test_exports_are_certified_and_damage_is_named(
    method: str, model: Path, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    run: Path = request.getfixturevalue(method)
    for target in ("merged", "peft"):
        result = done("export", "--adapter", run, "--to", target, "--output", tmp_path / target, *FORMAT[target],
                      "--limit", 2, "--json")  # fmt: skip
        parity = json.loads(result.stdout)["parity"]
        readers = {one["reader"]: one["gap"] for one in parity["readers"]}
        assert readers.keys() == {"veneer", {"merged": "transformers", "peft": "peft"}[target]}
        assert max(readers.values()) < 1e-3
    tensors = load_file(tmp_path / "merged" / "model.safetensors")
    name = next(
        name for name in sorted(tensors) if tensors[name].ndim == 2 and "embed" not in name and "wte" not in name
    )
    tensors[name] *= 1.02
    save_file(tensors, tmp_path / "merged" / "model.safetensors", {"format": "pt"})
    refused = invoke("verify", tmp_path / "merged", "--limit", 1)
    assert refused.exit_code == 1
    assert f"tensor {name}: is off by 2 %" in refused.output


def test_a_run_is_made_again_to_the_byte(lora: Path) -> None:
    assert "the same bytes" in done("reproduce", lora).stdout


def test_measured_merging_takes_the_base_that_loses_less(model: Path, data: Path, qlora: Path, tmp_path: Path) -> None:
    result = done("export", "--model", model, "--adapter", qlora, "--output", tmp_path / "out", "--data", data,
                  "--dtype", "float32", "--json")  # fmt: skip
    record = json.loads(result.stdout)
    losses = {base: found["loss"] for base, found in record["measured"]["merged"].items()}
    assert losses.keys() == {"dequantised", "original"}
    assert losses[record["merged_into"]] == min(losses.values())


@pytest.mark.parametrize(("to", "reader"), [("merged", "transformers"), ("peft", "peft")])
def test_exports_carry_a_certificate_by_the_other_program(
    to: str, reader: str, model: Path, lora: Path, data: Path, tmp_path: Path
) -> None:
    done("export", "--model", model, "--adapter", lora, "--output", tmp_path / "out", "--to", to, *FORMAT[to],
         "--data", data, "--limit", 3)  # fmt: skip
    certificate = json.loads((tmp_path / "out" / "parity.json").read_text(encoding="utf-8"))
    asked = {one["reader"]: one for one in certificate["readers"]}
    assert asked.keys() == {"veneer", reader}
    assert all(one["top1"] == one["positions"] and one["gap"] < 1e-3 for one in asked.values())
    assert certificate["tensors"]["compared"] > 10


def test_a_damaged_merge_is_caught_by_name(model: Path, lora: Path, tmp_path: Path) -> None:
    done("export", "--model", model, "--adapter", lora, "--output", tmp_path / "out", "--dtype", "float32")
    file = tmp_path / "out" / "model.safetensors"
    tensors = load_file(file)
    name = sorted(name for name in tensors if name.endswith("weight") and tensors[name].ndim == 2)[-1]
    tensors[name][0] += 1.0
    save_file(tensors, file, {"format": "pt"})
    result = invoke("verify", tmp_path / "out")
    assert result.exit_code != 0
    assert name in result.output + result.stderr


def test_generation_answers_in_batches_as_one_by_one(model: Path, lora: Path, tmp_path: Path) -> None:
    (tmp_path / "prompts.txt").write_text("3: parcel late?\nblue crate of the?\n", encoding="utf-8")
    common = ("--model", model, "--adapter", lora, "--device", "cpu", "--dtype", "float32", "--max-new-tokens", 12)
    both = done("generate", *common, "--input", tmp_path / "prompts.txt", "--json").stdout.splitlines()
    one = done("generate", *common, "--prompt", "blue crate of the?", "--json").stdout
    assert json.loads(both[1]) == json.loads(one)


# ------------------------------------------------------------------------------------------------- equal to PEFT's LoRA


def peft_pair(model: Path) -> tuple[PeftModel, HfModel]:
    """PEFT's adapter on every linear layer, with random factors, saved and loaded here."""
    torch.manual_seed(1)
    ours = load_hf(open_checkpoint(model), Loading(dtype=torch.float32))
    config = LoraConfig(
        r=3,
        lora_alpha=7,
        target_modules=sorted({path.rpartition(".")[2] for path in ours.linear_paths()}),
        fan_in_fan_out=ours.fan_in_fan_out,
        task_type="CAUSAL_LM",
    )
    wrapped = get_peft_model(their_model(model), config).eval()
    with torch.no_grad():
        for name, parameter in wrapped.named_parameters():
            if "lora_B" in name:
                parameter.normal_(std=0.1)
    folder = model.parent / "peft"
    shutil.rmtree(folder, ignore_errors=True)
    wrapped.save_pretrained(folder)
    load_adapter(ours, folder)
    return wrapped, ours


def test_an_adapter_of_peft_has_the_same_scores_and_gradients_here(model: Path, data: Path) -> None:
    wrapped, ours = peft_pair(model)
    found = examples(model, data)[:6]
    expected = their_logits(wrapped, TEXTS).detach()
    assert largest_difference(our_logits(ours), expected) < 1e-5 * max(1.0, float(expected.abs().max()))
    (batch,) = pack(found, 10_000)
    ours.train()
    OverModel(ours).sums(batch).total.backward()
    for one in found:
        their_loss(wrapped, one.tokens.tolist(), one.loss_mask.tolist()).backward()
    grads = {name: p.grad for name, p in wrapped.named_parameters() if p.grad is not None}
    compared = 0
    for path in ours.linear_paths():
        layer = ours.get_submodule(path)
        for side in ("lora_A", "lora_B"):
            grad = grads[f"base_model.model.{path}.{side}.default.weight"]
            own = layer.get_parameter(side).grad
            assert own is not None
            assert largest_difference(own, grad) < 1e-4 * max(1e-3, float(grad.abs().max())), path
            compared += 1
    assert compared == len(grads)


def test_more_kinds_of_adapter_open_in_peft(model: Path, tmp_path: Path, theirs: PreTrainedModel) -> None:
    ours = load_hf(open_checkpoint(model), Loading(dtype=torch.float32))
    spec = LoraSpec(rank=3, alpha=6.0, variant=Variant.DORA, scaling=Scaling.RSLORA, init=Init.GAUSSIAN)
    adapter = inject(ours, spec, seed=2)
    with torch.no_grad():
        for parameter in adapter.parameters():
            parameter.add_(0.05 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(3)))
    save_adapter(tmp_path, adapter, base=str(model))
    expected = their_logits(PeftModel.from_pretrained(theirs, tmp_path).eval(), TEXTS).detach()
    assert largest_difference(our_logits(ours), expected) < 2e-5 * max(1.0, float(expected.abs().max()))


# ----------------------------------------------------------------------------------------------- beside the own decoder


@pytest.mark.parametrize("method", ["lora", "qlora"])
def test_a_llama_trains_alike_through_both(method: str, tiny_model: Path, tiny_data: Path, tmp_path: Path) -> None:
    for backend in ("veneer", "hf"):
        settings = (f"backend={backend}", f"method={method}", "train.steps=6", "data.held_out=0.2", "lora.dropout=0.0")
        train(run_config(tiny_model, tiny_data, tmp_path / backend, *settings))
    losses = {
        backend: [event["loss"] for kind in ("StepDone", "Evaluated") for event in events(tmp_path / backend, kind)]
        for backend in ("veneer", "hf")
    }
    assert losses["hf"] == pytest.approx(losses["veneer"], rel=2e-6)
    adapters = [load_file(tmp_path / backend / "adapter_model.safetensors") for backend in ("veneer", "hf")]
    assert adapters[0].keys() == adapters[1].keys()
    assert all(largest_difference(adapters[0][name], adapters[1][name]) < 1e-3 for name in adapters[0])
    assert any("backend hf, as requested" in event["message"] for event in events(tmp_path / "hf", "Note"))


def test_a_run_that_was_interrupted_goes_on_to_the_same_bytes(data: Path, tmp_path: Path) -> None:
    model = write_hf_model(tmp_path / "model", "gpt2")
    settings = ("lora.dropout=0.1", "compute.recompute=layers", "train.steps=6", "train.save_every=2",
                "compute.micro_batch_tokens=200")  # fmt: skip
    train(run_config(model, data, tmp_path / "whole", *settings))
    asked = iter(range(100))
    with pytest.raises(Exception, match="stopped after step 3"):
        train(run_config(model, data, tmp_path / "cut", *settings), stop=lambda: next(asked) == 2)
    train(run_config(model, data, tmp_path / "cut", *settings), resume=True)
    names = ("adapter_model.safetensors",)
    whole, cut = tree(tmp_path / "whole"), tree(tmp_path / "cut")
    assert all(whole[name] == cut[name] for name in names)


def test_a_run_is_reproduced_to_the_byte(data: Path, tmp_path: Path) -> None:
    model = write_hf_model(tmp_path / "model", "gpt2")
    train(run_config(model, data, tmp_path / "run", "method=qlora", "train.steps=3"))
    found = json.loads(done("reproduce", tmp_path / "run", "--json").stdout)
    assert found["same"] is True


def test_micro_batches_and_recomputation_change_no_loss(data: Path, tmp_path: Path) -> None:
    model = write_hf_model(tmp_path / "model", "deepseek_v3")
    losses = {}
    for name, extra in {
        "one": ("compute.micro_batch_tokens=4000",),
        "many": ("compute.micro_batch_tokens=60",),
        "again": ("compute.micro_batch_tokens=4000", "compute.recompute=layers"),
    }.items():
        train(run_config(model, data, tmp_path / name, "train.steps=4", *extra))
        losses[name] = [event["loss"] for event in events(tmp_path / name, "StepDone")]
    assert losses["many"] == pytest.approx(losses["one"], rel=1e-4)
    assert losses["again"] == pytest.approx(losses["one"], rel=1e-5)


def test_prompts_and_completions_need_no_chat_template(tmp_path: Path) -> None:
    model = write_hf_model(tmp_path / "model", "gpt2", template=False)
    content = [{"prompt": f"{n} parcels are ", "completion": "late" if n % 2 else "blue"} for n in range(12)]
    data = write_rows(tmp_path / "rows.jsonl", content)
    result = train(run_config(model, data, tmp_path / "run", "train.steps=12"))
    losses = [event["loss"] for event in events(result.output, "StepDone")]
    assert losses[-1] < losses[0]
    report = done("evaluate", "--model", model, "--adapter", result.output, "--data", data, "--device", "cpu", "--json")
    assert json.loads(report.stdout)["rows"] == 12


def test_a_head_of_another_name_is_found(data: Path, tmp_path: Path) -> None:
    base = write_hf_model(tmp_path / "base", "biogpt")
    run = train(run_config(base, data, tmp_path / "run", "train.steps=2"))
    assert run.progress.step == 2


@pytest.mark.parametrize(
    ("method", "left_out"), [("lora", "lora.exclude_modules=[dt_proj]"), ("qlora", "quant.skip_modules=[dt_proj]")]
)
def test_a_class_that_reads_a_layers_weight_is_told_of_with_the_line(
    method: str, left_out: str, data: Path, tmp_path: Path
) -> None:
    base = write_hf_model(tmp_path / "base", "falcon_mamba")
    settings = (f"method={method}", "train.steps=2")
    with pytest.raises(ModelError, match=r"in `time_step = self\.dt_proj\.weight .*exclude_modules.*skip_modules"):
        train(run_config(base, data, tmp_path / "run", *settings))
    run = train(run_config(base, data, tmp_path / "again", *settings, "lora.exclude_modules=[dt_proj]", left_out))
    assert run.progress.step == 2


def test_rows_beyond_the_learned_positions_are_refused(data: Path, tmp_path: Path) -> None:
    model = write_hf_model(tmp_path / "model", "gpt2", changes={"n_positions": 16})
    with pytest.raises(ModelError, match=r"'gpt2' has 16 positions, but a row has \d+ tokens"):
        train(run_config(model, data, tmp_path / "run"))


def test_adapters_are_switched_and_not_mixed(model: Path, lora: Path, qlora: Path) -> None:
    adapters = AdapterSet(load_hf(open_checkpoint(model), Loading(dtype=torch.float32)))
    adapters.load("one", lora)
    adapters.load("two", qlora)
    base = our_logits(adapters.model)
    adapters.use("one")
    assert largest_difference(our_logits(adapters.model), base) > 1e-3
    adapters.use(None)
    assert torch.equal(our_logits(adapters.model), base)
    with pytest.raises(AdapterError, match="several adapters in one pass need veneer's own decoder"):
        adapters.by_row(["one", "two"]).__enter__()


@pytest.mark.parametrize("kind", ["llama", "gpt_neox"])
def test_files_that_are_quantised_already_are_held_as_they_are(kind: str, data: Path, tmp_path: Path) -> None:
    plain = write_hf_model(tmp_path / "plain", kind)
    settings = BitsAndBytesConfig(load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_use_double_quant=True)
    stored = AutoModelForCausalLM.from_pretrained(plain, quantization_config=settings, dtype=torch.float32)
    shutil.copytree(plain, tmp_path / "stored")
    stored.save_pretrained(tmp_path / "stored")
    theirs = their_model(plain)
    ours = load_language_model(open_checkpoint(tmp_path / "stored"), Backend.HF, Loading(dtype=torch.float32))
    held_as_ours(theirs, ours)
    assert any(isinstance(module, PackedLinear) for module in ours.modules())
    assert largest_difference(our_logits(ours), their_logits(theirs, TEXTS).detach()) < 2e-5
    result = train(run_config(tmp_path / "stored", data, tmp_path / "run", "backend=hf", "train.steps=2"))
    done("export", "--model", tmp_path / "stored", "--adapter", result.output, "--output", tmp_path / "out",
         "--dtype", "float32")  # fmt: skip
    live = our_logits(open_assistant(str(tmp_path / "stored"), adapter=result.output, compute=FLOAT32).model)
    assert largest_difference(their_logits(their_model(tmp_path / "out"), TEXTS).detach(), live) < 2e-5


def test_a_sweep_trains_its_points_one_by_one(data: Path, tmp_path: Path) -> None:
    model = write_hf_model(tmp_path / "model", "gpt_neox")
    done("sweep", "--model", model, "--data", data, "--output", tmp_path / "sweep", "--grid", "lora.rank=2,4",
         "--method", "lora", "--held-out", 0.2, "--device", "cpu", "--set", "train.steps=2",
         "--set", "compute.dtype=float32")  # fmt: skip
    found = json.loads((tmp_path / "sweep" / "results.json").read_text(encoding="utf-8"))
    assert len(found if isinstance(found, list) else found["points"]) == 2


# ------------------------------------------------------------------------------------------------------- what it cannot


def test_a_plan_is_an_estimate_and_says_so(data: Path, tmp_path: Path) -> None:
    model = write_hf_model(tmp_path / "model", "falcon")
    shown = done("plan", "--model", model / "config.json", "--method", "qlora")
    assert "not planned, because transformers computes the model: about" in shown.stdout
    found = json.loads(done("plan", "--model", model, "--data", data, "--json").stdout)
    assert found["exact"] is False
    assert found["peak"] == sum(found[part] for part in ("runtime", "base", "trained", "activations"))


def test_more_memory_than_allowed_is_said_and_not_refused(data: Path, tmp_path: Path) -> None:
    model = write_hf_model(tmp_path / "model", "gpt2")
    result = train(run_config(model, data, tmp_path / "run", "train.steps=1", "compute.memory_limit_mb=1"))
    said = [event["message"] for event in events(result.output, "Note")]
    assert any("that is more than the 1 MB allowed" in one and "the run is tried nevertheless" in one for one in said)
    assert result.plan is None


def test_settings_of_the_own_decoder_are_refused_together(data: Path, tmp_path: Path) -> None:
    model = write_hf_model(tmp_path / "model", "gpt2")
    with pytest.raises(ConfigError) as refused:
        train(run_config(model, data, tmp_path / "run", "method=full", "lora.rank=2"))
    assert "method full: use lora or qlora" in str(refused.value)
    with pytest.raises(ConfigError) as refused:
        train(run_config(model, data, tmp_path / "run", "compute.products=int8", "lora.new_tokens=[x1]"))
    assert "compute.products int8" in str(refused.value)
    assert "lora.new_tokens" in str(refused.value)


@pytest.mark.parametrize(
    ("setting", "named"),
    [
        ("lora.modules_to_save=[wte]", "modules_to_save"),
        ("lora.trainable_tokens=[3]", "trainable_tokens"),
        ("lora.bias=all", "bias"),
        ("lora.init=eva", "init: eva"),
        ("lora.target_modules=[c_attn, lm_head]", "target lm_head"),
    ],
)
def test_parts_beyond_linear_layers_are_refused_by_name(setting: str, named: str, data: Path, tmp_path: Path) -> None:
    model = write_hf_model(tmp_path / "model", "gpt2")
    with pytest.raises(AdapterError, match=rf"an adapter can only change linear layers[^\n]*\n  - {named}"):
        train(run_config(model, data, tmp_path / "run", setting))


def test_what_is_packed_is_refused(lora: Path, model: Path, kind: str, data: Path, tmp_path: Path) -> None:
    packed = invoke("export", "--model", model, "--adapter", lora, "--output", tmp_path / "out", "--to", "merged-4bit",
                    "--data", data)  # fmt: skip
    assert packed.exit_code == 2
    assert f"transformers computes model_type '{kind}' (backend hf); use --to merged" in packed.stderr
    for to in ("gguf", "gguf-adapter"):
        other = invoke("export", "--model", model, "--adapter", lora, "--output", tmp_path / "out", "--to", to)
        assert other.exit_code == 2
        assert f"--to {to} needs veneer's own decoder" in other.stderr
    quantised = invoke("quantize", "--model", model, "--output", tmp_path / "out")
    assert quantised.exit_code == 2
    assert f"which does not know model_type '{kind}'" in quantised.stderr
    assert not (tmp_path / "out").exists()


def test_a_quantised_base_is_held_so_whatever_is_quantised(kind: str, model: Path, data: Path) -> None:
    assistant = open_assistant(str(model), method=Method.QLORA, compute=FLOAT32)
    dense = load_hf(open_checkpoint(model), Loading(form=WeightForm.FROZEN, dtype=torch.float32))
    assert largest_difference(our_logits(assistant.model), our_logits(dense)) > 1e-3
