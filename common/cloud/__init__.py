"""Rent a machine, run an experiment on it, bring the results home, end it, and prove that it is gone.

To read it: `main` (from a command line to an exit code), `flow` (a renting from intent to proof), then what it goes
through: `launch`, `work`, `teardown`. `provider` is the seam before `runpod` and `aws`; `watchdog` and
`data/deadman.sh` end what was forgotten; the other verbs are in `upkeep` and `account`.
"""
