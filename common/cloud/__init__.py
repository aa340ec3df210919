"""Rent a machine, run an experiment on it, bring the results home, end it, and prove that it is gone."""
