"""GGUF files of one model in every type that veneer writes, computed by llama.cpp and compared with the model itself.

    python benchmarks/gguf_types.py MODEL [--prompts 20] [--tokens 8] [--kinds f32 q8_0 …]

MODEL is anything that `veneer` opens. Each file is written into a temporary folder, opened by llama.cpp (the extra
`llama-cpp`), and continued greedily from every prompt; at each position the ten likeliest tokens that llama.cpp names
are compared with the log-probabilities of the model in float32, computed by veneer on the same tokens.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from pathlib import Path

import torch

from veneer.exports.gguf import write_gguf_base
from veneer.exports.llama_cpp import opened
from veneer.io.checkpoint import open_checkpoint
from veneer.io.gguf.encode import Quant
from veneer.loading.how import Loading
from veneer.loading.load import load_model
from veneer.model.attention import PackedAttention

PROMPTS = (
    "The capital of France is", "Water boils at", "Once upon a time there was", "def add(a, b):\n    return",
    "The three primary colours are", "To make tea you need", "In 1969 the first man", "A parcel was late because",
    "The opposite of hot is", "My favourite season is", "Dear customer, thank you for", "The sum of 12 and 30 is",
    "The largest planet is", "Bread is made of", "When it rains I", "The train leaves at", "Please find attached",
    "Red, green and", "She opened the door and", "The quick brown fox",
)  # fmt: skip


def main() -> None:
    """Print one line a type."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model")
    parser.add_argument("--prompts", type=int, default=len(PROMPTS))
    parser.add_argument("--tokens", type=int, default=8)
    parser.add_argument("--kinds", nargs="+", default=[kind.value for kind in Quant])
    arguments = parser.parse_args()
    checkpoint = open_checkpoint(arguments.model)
    model = load_model(checkpoint, Loading(dtype=torch.float32)).eval()
    tokenizer = checkpoint.tokenizer()
    print(f"{'type':8} {'MB':>7} {'written s':>9} {'largest gap':>11} {'mean gap':>9} {'top-1 equal':>11}")
    for kind in map(Quant, arguments.kinds):
        with tempfile.TemporaryDirectory() as folder:
            file = Path(folder) / "model.gguf"
            start = time.perf_counter()
            written = write_gguf_base(file, checkpoint, kind)
            seconds = time.perf_counter() - start
            gaps, equal = [], []
            with opened(file, context=256) as server:
                for prompt in PROMPTS[: arguments.prompts]:
                    ids = tokenizer.encode(prompt)
                    answer = server.continued(ids, arguments.tokens)
                    everything = torch.tensor([*ids, *answer.tokens])
                    with torch.no_grad():
                        hidden = model.hidden(
                            everything, torch.arange(len(everything)), PackedAttention([len(everything)])
                        )
                        own = model.logits(hidden).double().log_softmax(-1)
                    for offset, step in enumerate(answer.steps):
                        row = own[len(ids) - 1 + offset]
                        gaps += [
                            abs(float(row[token]) - value) for token, value in zip(step.ids, step.logprobs, strict=True)
                        ]
                        equal.append(int(row.argmax()) == step.ids[0])
        print(
            f"{kind.value:8} {written.bytes / 1e6:7.1f} {seconds:9.1f} {max(gaps):11.2e} {sum(gaps) / len(gaps):9.2e} "
            f"{sum(equal)}/{len(equal)}"
        )


if __name__ == "__main__":
    main()
