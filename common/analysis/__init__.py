"""Result files to frames, tables and figures: what reports and notebooks import."""
