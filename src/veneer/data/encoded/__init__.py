"""Encoded rows: records become tokens with a loss mask, in memory or in a cache on the disk."""
