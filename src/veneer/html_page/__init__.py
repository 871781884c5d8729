"""Self-contained pages of HTML: what the reports on data and on results share."""
