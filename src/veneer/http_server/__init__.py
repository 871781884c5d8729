"""An HTTP server with limits and keys: what every route has, whatever it answers."""
