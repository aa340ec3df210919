"""The experiments are scripts: two of them are called test_*, and none is for pytest to collect."""

collect_ignore = ["week5"]
