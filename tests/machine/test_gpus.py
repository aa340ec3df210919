"""NVML's answers as facts, links and processes."""

from __future__ import annotations

import json

import pynvml
import pytest

from common.machine import gpus
from common.machine.gpus import (
    GpuProcess,
    driver_cuda_version,
    driver_version,
    foreign_processes,
    read_gpus,
    used_bytes,
)
from common.machine.topology import Link, best_linked, read_links
from tests.machine.replay import A100, HIDDEN, L4, RECORDED, RTX_3090, Replay

MIB = 1 << 20


def test_facts_in_si_units() -> None:
    gpu = read_gpus(Replay(A100))[3]
    assert (gpu.index, gpu.name) == (3, "NVIDIA A100-SXM4-80GB")
    assert gpu.uuid.startswith("GPU-33333333-")
    assert gpu.memory_bytes == 81920 * MIB
    assert gpu.memory_used_bytes == 4 * MIB
    assert gpu.power_limit_w == 400.0
    assert (gpu.sm_clock_hz, gpu.sm_clock_max_hz, gpu.memory_clock_hz) == (210e6, 1410e6, 1593e6)
    assert gpu.mig is False


def test_what_a_board_does_not_tell_is_none() -> None:
    nvml = Replay(L4, failing={"nvmlDeviceGetMemoryInfo": pynvml.NVML_ERROR_NOT_SUPPORTED})
    gpu = read_gpus(nvml)[0]
    assert (gpu.memory_bytes, gpu.memory_used_bytes, gpu.mig) == (None, None, None)
    assert used_bytes(gpu.uuid, nvml) is None


def test_driver() -> None:
    assert driver_version(Replay(A100)) == "550.54.15"
    assert driver_cuda_version(Replay(A100)) == (12, 4)
    assert driver_cuda_version(Replay(A100, {"nvmlSystemGetCudaDriverVersion": 999})) is None


def test_switched_gpus_are_all_joined_by_twelve_links() -> None:
    links = read_links(Replay(A100), range(4))
    assert len(links) == 6
    assert {(link.kind, link.nvlinks, link.p2p) for link in links} == {("nvlink", 12, True)}


def test_pcie_only_without_peer_to_peer() -> None:
    links = read_links(Replay(L4), range(4))
    assert {link.kind for link in links} == {"node", "phb"}
    assert Link(2, 3, "phb", 0, False) in links
    assert all(link.p2p is False and link.nvlinks == 0 for link in links)


def test_a_bridge_joins_only_its_pair() -> None:
    assert read_links(Replay(RTX_3090), range(3)) == (
        Link(0, 1, "phb", 0, False),
        Link(0, 2, "node", 0, False),
        Link(1, 2, "nvlink", 4, True),
    )


def test_what_nvml_does_not_know_about_a_pair_is_none_or_absent() -> None:
    assert read_links(Replay(HIDDEN), [0, 1]) == (Link(0, 1, "phb", 0, None),)
    silent = Replay(HIDDEN, {"nvmlDeviceGetTopologyCommonAncestor": pynvml.NVML_ERROR_UNKNOWN})
    assert read_links(silent, [0, 1]) == ()


def test_an_old_driver_tells_of_nvlink_but_not_where_it_ends() -> None:
    nvml = Replay(A100, {"nvmlDeviceGetNvLinkRemoteDeviceType": pynvml.NVML_ERROR_FUNCTION_NOT_FOUND})
    assert read_links(nvml, [0, 1]) == (Link(0, 1, "nvlink", None, True),)


@pytest.mark.parametrize(
    ("recording", "count", "expected"),
    [(A100, 2, (0, 1)), (L4, 1, (0,)), (L4, 2, (2, 3)), (RTX_3090, 2, (1, 2)), (RTX_3090, 3, (0, 1, 2))],
)
def test_the_best_linked_group(recording: str, count: int, expected: tuple[int, ...]) -> None:
    nvml = Replay(recording)
    indices = range(nvml.nvmlDeviceGetCount())
    assert best_linked(indices, read_links(nvml, indices), count) == expected


def test_the_weakest_link_decides() -> None:
    kinds = {(0, 1): "nvlink", (0, 2): "sys", (0, 3): "sys", (1, 2): "sys", (1, 3): "node", (2, 3): "nvlink"}
    links = [Link(a, b, kind) for (a, b), kind in kinds.items()]  # type: ignore[arg-type]
    assert best_linked([0, 1, 2, 3], links, 2) == (0, 1)
    # every group of three holds a "sys"; the sums of {0, 1, 3} and {1, 2, 3} are largest, and equal
    assert best_linked([0, 1, 2, 3], links, 3) == (0, 1, 3)
    assert best_linked([0, 1, 2], [], 2) == (0, 1)


def test_a_desktop_is_named_without_its_folder() -> None:
    uuids = [gpu.uuid for gpu in read_gpus(Replay(RTX_3090))]
    assert foreign_processes(uuids, nvml=Replay(RTX_3090)) == [GpuProcess(uuids[0], 1432, "Xorg", 400 * MIB)]
    assert foreign_processes(uuids, ours={1432}, nvml=Replay(RTX_3090)) == []


def test_a_container_hides_names_and_processes() -> None:
    uuids = [gpu.uuid for gpu in read_gpus(Replay(HIDDEN))]
    assert foreign_processes(uuids, nvml=Replay(HIDDEN)) == [
        GpuProcess(uuids[0], 90210, "unknown process", 9000 * MIB),
        GpuProcess(uuids[1], None, "unknown process", 18000 * MIB),
    ]


def test_idle_gpus_have_no_processes() -> None:
    uuids = [gpu.uuid for gpu in read_gpus(Replay(A100))]
    assert foreign_processes(uuids, nvml=Replay(A100)) == []
    assert used_bytes(uuids[0], Replay(A100)) == 4 * MIB


def test_an_unknown_uuid_is_an_error() -> None:
    with pytest.raises(pynvml.NVMLError):
        used_bytes("GPU-none", Replay(A100))


def raise_nvml(code: int) -> None:
    raise pynvml.NVMLError(code)


@pytest.mark.parametrize("code", [pynvml.NVML_ERROR_LIBRARY_NOT_FOUND, pynvml.NVML_ERROR_DRIVER_NOT_LOADED])
def test_without_a_driver_there_is_nothing_to_tell(monkeypatch: pytest.MonkeyPatch, code: int) -> None:
    monkeypatch.setattr(pynvml, "nvmlInit", lambda: raise_nvml(code))
    assert gpus.open_nvml() is None
    assert driver_version() is None
    assert driver_cuda_version() is None
    assert used_bytes("GPU-0") is None
    assert foreign_processes(["GPU-0"]) == []


def test_recordings_mention_only_calls_that_pynvml_has() -> None:
    for file in RECORDED.glob("*.json"):
        recorded = json.loads(file.read_text())
        parts = [recorded["system"], recorded["every_gpu"], recorded["pairs"], *recorded["gpus"]]
        for name in {name.partition("(")[0] for part in parts for name in part}:
            assert hasattr(pynvml, name), f"{file.name}: {name}"
