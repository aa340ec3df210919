"""Many clients: rows, knees, table, figures."""
