"""The evening's run: the plans side by side."""
