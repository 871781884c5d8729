"""Full fine-tuning, LoRA and QLoRA side by side on the user's own rows."""
