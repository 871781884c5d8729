"""Models that answer: requests for them, loading them, and conversations with them."""
