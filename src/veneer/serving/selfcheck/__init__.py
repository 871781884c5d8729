"""`veneer serve --selfcheck`: whether answers mix, on the user's own model and adapters."""
