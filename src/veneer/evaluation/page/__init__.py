"""The report on an evaluation as one self-contained HTML page."""
