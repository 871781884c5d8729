"""One command for all points of a grid of settings: trained together where they share a base."""
