"""A trained adapter in other forms: PEFT's own, a whole model, dense or in 4 bits, and GGUF files of either kind."""
