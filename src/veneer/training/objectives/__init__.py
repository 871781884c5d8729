"""What a step minimises, one objective a file."""
