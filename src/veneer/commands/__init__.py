"""The commands of the command line, one file each; `veneer.cli` registers them."""
