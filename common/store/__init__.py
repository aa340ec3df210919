"""The result schema; save, resume, export."""
