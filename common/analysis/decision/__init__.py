"""The page for the person who pays: what was measured within the limits, and what a rate takes."""
