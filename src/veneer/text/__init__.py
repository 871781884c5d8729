"""Small tools for text: JSON that is always valid, whole lines, and words that can be shown."""
