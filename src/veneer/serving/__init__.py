"""The HTTP server: OpenAI's and Ollama's interfaces in front of the engine."""
