"""The adapters of a server: found in a folder, loaded beside the base, and kept by their last use."""
