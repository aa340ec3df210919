"""Scripts of week5/ are experiments, whatever they are called: pytest leaves them alone."""

collect_ignore_glob = ["week5/test_*.py"]
