"""Quantised weights: how weights become codes (`codes`, `rowwise`, `dynamic`), and the frozen layers that hold them."""
