"""Train pi0.5 the way its paper says; see docs/ for the rooms and the words."""

__version__ = "0.1.0"
