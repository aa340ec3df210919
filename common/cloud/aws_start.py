"""What an EC2 instance is born with: cloud-init that arms its end at every boot, and lets our ssh key in."""

from __future__ import annotations

import base64
import json
from dataclasses import replace

from common.cloud.deadman import DeadMan
from common.cloud.prices import DATA

HOME = "/home/ubuntu/lab-run"
POWER_OFF = """end_machine() { systemctl poweroff --no-block; sleep 60; poweroff --force; }
"""


def user_data(dead_man: DeadMan, public_key: str = "") -> str:
    """A cloud-config; `bootcmd` runs early in every boot, so a reboot does not disarm it."""
    script = replace(dead_man, home=HOME).script(POWER_OFF) + "lab_deadman\n"
    arm = f"LAB_DEADLINE={dead_man.deadline}\n" + (DATA / "arm_aws.sh").read_text(encoding="utf-8")
    commands = [f"echo {_packed(script)} | base64 -d > /etc/lab-deadman.sh", f"echo {_packed(arm)} | base64 -d | bash"]
    config = {"bootcmd": [["bash", "-c", command] for command in commands], "ssh_authorized_keys": [public_key]}
    return "#cloud-config\n" + json.dumps(config)  # JSON is YAML, and nothing in it needs quoting


def _packed(script: str) -> str:
    return base64.b64encode(script.encode()).decode()
