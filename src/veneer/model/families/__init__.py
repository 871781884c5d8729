"""One function a family: from its `config.json` to a `DecoderSpec` (docs/adding-a-model.md)."""
