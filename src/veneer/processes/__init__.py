"""Several processes that do one job: who they are, where they meet, and which of them is gone."""
