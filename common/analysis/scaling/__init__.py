"""Speed-up and efficiency: rows, table, figures, and what they mean."""
