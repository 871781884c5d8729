"""`python -m veneer.exports.llama_server`: llama.cpp's server over one GGUF file, in a process of its own.

It reads its settings as a line of JSON from standard input, writes its address as a line to standard output, and ends
when standard input ends. So llama.cpp's messages stay out of the terminal, a file that makes it crash ends no other
process, and no server outlives the process that started it.

Everything is set for comparison and nothing for speed: a float32 cache, no flash attention, one sequence, and nothing
kept between prompts (a cache that outlives a prompt has mixed adapters: llama.cpp issue 26207).
"""

from __future__ import annotations

import json
import sys
from typing import Any

import xllamacpp

from veneer.text.strict_json import to_text


def main() -> int:
    """Serve until standard input ends."""
    order = json.loads(sys.stdin.readline())
    try:
        server = xllamacpp.Server(_params(order))
    except RuntimeError as error:
        print(to_text({"error": str(error)}), flush=True)
        return 1
    print(to_text({"address": server.listening_address}), flush=True)
    sys.stdin.read()
    return 0


def _params(order: dict[str, Any]) -> Any:
    params = xllamacpp.CommonParams()
    params.model.path = order["model"]
    params.n_ctx = order["context"]
    params.n_batch = params.n_ubatch = min(order["context"], 512)
    params.api_keys = [order["key"]]
    params.port = 0
    params.n_parallel = 1
    params.n_gpu_layers = 0
    params.cpuparams.n_threads = params.cpuparams_batch.n_threads = order["threads"]
    params.flash_attn_type = xllamacpp.llama_flash_attn_type.LLAMA_FLASH_ATTN_TYPE_DISABLED
    params.cache_type_k = params.cache_type_v = xllamacpp.ggml_type.GGML_TYPE_F32
    params.cache_prompt = False
    params.cache_ram_mib = 0
    params.n_ctx_checkpoints = 0
    params.fit_params = False
    params.warmup = False
    params.ui = False
    params.endpoint_slots = False
    params.use_jinja = True
    # Only errors: they are read if the server does not start.
    params.verbosity = 1
    if order["adapter"] is not None:
        adapter = xllamacpp.CommonAdapterLoraInfo()
        adapter.path, adapter.scale = order["adapter"], 1.0
        params.lora_adapters = [adapter]
    return params


if __name__ == "__main__":
    sys.exit(main())
