"""The files of adapters, in PEFT's format: written, read and checked."""
