"""HTML without a library: pages, charts as SVG, and tables for notebooks."""
