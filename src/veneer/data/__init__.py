"""Examples in: files to records, records to tokens with a loss mask, tokens to packed batches."""
