"""The studio: jobs in the shape of OpenAI's fine-tuning API, and pages, over a folder of runs."""
