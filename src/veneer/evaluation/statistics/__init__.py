"""Is a model better? Measures of models on rows, their intervals, and tests of their differences."""
