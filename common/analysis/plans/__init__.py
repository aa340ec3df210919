"""Plans side by side: the Pareto front, who holds what and says what to whom, and which plan for which goal."""
