"""From a sample to an example, and from the network's numbers back to physical actions."""
