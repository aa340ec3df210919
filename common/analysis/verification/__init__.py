"""Does tensor parallelism work: checks, verdicts, table."""
