"""Files in and out: checkpoints (safetensors and GGUF) and tokenizers."""
