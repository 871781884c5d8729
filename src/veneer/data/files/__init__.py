"""Data files and other sources of rows: read, checked and repaired."""
