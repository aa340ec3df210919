"""The first thing that runs on a machine, by provider."""

from __future__ import annotations

from common.cloud.aws_start import user_data
from common.cloud.deadman import DeadMan, runpod_start


def start_script(provider: str, dead_man: DeadMan, api: str, public_key: str) -> str:
    """The script that arms the machine's end."""
    if provider == "aws":
        return user_data(dead_man, public_key)
    return runpod_start(dead_man, api)
