"""From the order to packed batches: reading, caching, replacing what is bad, dividing into micro-batches."""
