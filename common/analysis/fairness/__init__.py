"""Mixed load: slowdowns, table, figures."""
