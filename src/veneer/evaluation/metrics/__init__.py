"""Measures of answers by task: JSON fields, labels, choices, translations, texts, numbers, and the user's own."""
