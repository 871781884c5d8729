"""GGUF model files: names, configuration, tokenizer and blocks, read and written by the same tables."""
