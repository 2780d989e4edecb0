"""The parsers of `pi05`, one module per group of verbs, and what each verb calls; heavy imports inside the verbs."""
