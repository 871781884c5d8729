"""The server that the tests of this folder share."""

from helpers.servers.shared_server import assistant, client, other, running, server, service

__all__ = ["assistant", "client", "other", "running", "server", "service"]
