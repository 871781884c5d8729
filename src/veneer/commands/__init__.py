"""The commands of the command line, by what they are about; `veneer.cli` puts them together."""
