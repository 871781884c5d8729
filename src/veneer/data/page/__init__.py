"""The report on a data file as one self-contained HTML page."""
