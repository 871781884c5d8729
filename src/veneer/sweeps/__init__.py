"""All points of a grid of settings by one command; points that share a base are trained together."""
