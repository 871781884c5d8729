"""A Hugging Face directory from a GGUF file, so that every system starts from equal weights.

Runs in the environment of TRL + PEFT. Usage: python make_model.py FILE.gguf FOLDER
"""

from __future__ import annotations

import shutil
import sys
from pathlib import Path

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer


def convert(gguf: Path, folder: Path) -> None:
    """Write config, weights (bfloat16) and tokenizer of `gguf` into `folder`, which appears complete or not at all."""
    where = {"pretrained_model_name_or_path": str(gguf.parent), "gguf_file": gguf.name}
    decoded = AutoModelForCausalLM.from_pretrained(**where, dtype=torch.float32)
    # The decoded model still calls itself quantised, and would be saved and loaded as such: a fresh one does not.
    if hasattr(decoded.config, "quantization_config"):
        del decoded.config.quantization_config
    model = type(decoded)(decoded.config)
    model.load_state_dict(decoded.state_dict())
    partial = folder.with_name(folder.name + ".partial")
    shutil.rmtree(partial, ignore_errors=True)
    model.to(torch.bfloat16).save_pretrained(partial)
    AutoTokenizer.from_pretrained(**where).save_pretrained(partial)
    partial.rename(folder)


if __name__ == "__main__":
    convert(Path(sys.argv[1]), Path(sys.argv[2]))
