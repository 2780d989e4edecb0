"""Foreign data sets into samples: one module per format, one engine that writes shards, counts and a card."""
