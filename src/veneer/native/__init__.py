"""Compiled CPU kernels for what torch does slowly, and how they are built and chosen."""
