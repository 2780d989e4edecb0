"""Run folders to one page a person reads."""
