"""Rent a machine at AWS, run an experiment on it, bring the results home, end it, prove that it is gone."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # the lab that this script stands in
from common.cloud.main import main

if __name__ == "__main__":
    sys.exit(main("aws", Path(__file__).with_name("profiles.toml")))
