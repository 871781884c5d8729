"""The commands of the command line, a file for each; `veneer.cli` puts them together."""
