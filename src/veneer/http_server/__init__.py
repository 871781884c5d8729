"""An HTTP server with limits and keys: the part that all routes share."""
