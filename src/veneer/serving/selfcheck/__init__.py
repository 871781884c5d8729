"""`veneer serve --selfcheck`: whether concurrent requests mix up answers, on the user's own model and adapters."""
