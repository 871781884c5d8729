"""Ollama's interface: the routes that its clients call."""
