"""The checks, one a file; `veneer.data.lint.registry` lists them."""
