"""The forms in which rows come: conversations, pairs, labelled answers and prompts."""
