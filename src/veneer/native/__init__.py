"""Compiled CPU kernels for operations that are slow in torch, and how they are built and chosen."""
