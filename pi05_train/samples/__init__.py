"""What data is: the sample schema, the source card, the shard writer and parser."""
