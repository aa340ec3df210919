"""What a machine must be before anything is downloaded to it: the answers of machines that are not it."""

from __future__ import annotations

import pytest

from common.cloud.errors import MachineError
from common.cloud.probe import probe
from common.cloud.transport import Done
from tests.cloud.world import PROBED

WANTED = {"gpus": 4, "links": "NVLink"}


class Answering:
    def __init__(self, text: str) -> None:
        self.text = text

    def run(self, script: str, stdin: bytes = b"", timeout_s: float = 60.0) -> Done:
        return Done(0, self.text.encode(), "")


def test_what_was_ordered() -> None:
    found = probe(Answering(PROBED), WANTED, 1e11)
    assert found["gpus"] == 4
    assert found["driver"] == "580.65.06"
    assert found["cuda"] == "13.0"
    assert found["nvlink"] is True
    assert found["disk_free_bytes"] == 10**12


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ("580.65.06", "570.10", "driver is 570"),
        ("NV12", "PHB", "ordered with NVLink"),
        (str(10**12), str(10**10), "10 GB free and 100 are needed"),
        ("NVIDIA A100-SXM4-80GB, 580.65.06\n", "", "has 0 GPUs and 4 were ordered"),
        (PROBED, "", "has 0 GPUs"),
        (PROBED, "@gpus\nNVIDIA A100", "has 0 GPUs"),
        ("580.65.06", "[N/A]", "driver"),
        (str(10**12), "df: no such file", "0 GB free"),
    ],
)
def test_a_machine_that_is_something_else(old: str, new: str, said: str) -> None:
    with pytest.raises(MachineError, match=said):
        probe(Answering(PROBED.replace(old, new)), WANTED, 1e11)


def test_pcie_where_pcie_was_ordered() -> None:
    assert probe(Answering(PROBED.replace("NV12", "PHB")), WANTED | {"links": "PCIe"}, 0.0)["nvlink"] is False
