"""What every experiment shares: command line, preflight, sweep, live view, report."""
