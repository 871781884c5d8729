"""The adapters of a server: found in a folder, loaded for the shared base, and evicted by last use."""
