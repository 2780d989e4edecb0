"""One source: its index, the rows that pass a filter, its numbers, whether it is whole."""
