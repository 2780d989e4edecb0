"""Simulated robots: environments, experts, recorded sources and closed-loop evaluation."""
