"""The modules of an adapter: the update of each kind of layer."""
