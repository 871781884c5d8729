"""The reference model of preferences, whose log-probabilities are computed once."""
