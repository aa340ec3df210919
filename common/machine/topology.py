"""How the GPUs of one machine are linked, and which of them belong together."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Any, Literal

import pynvml

from common.machine.gpus import Nvml, ask

LinkKind = Literal["nvlink", "pix", "pxb", "phb", "node", "sys"]

# The names that `nvidia-smi topo -m` prints for NVML's levels. "Internal" is two GPUs of one board.
_PCIE_KINDS: dict[int, LinkKind] = {
    pynvml.NVML_TOPOLOGY_INTERNAL: "pix",
    pynvml.NVML_TOPOLOGY_SINGLE: "pix",
    pynvml.NVML_TOPOLOGY_MULTIPLE: "pxb",
    pynvml.NVML_TOPOLOGY_HOSTBRIDGE: "phb",
    pynvml.NVML_TOPOLOGY_NODE: "node",
    pynvml.NVML_TOPOLOGY_SYSTEM: "sys",
}
_RANK: dict[LinkKind, int] = {"sys": 1, "node": 2, "phb": 3, "pxb": 4, "pix": 5, "nvlink": 6}  # 0: not known

# Spelt out because pynvml's NVML_P2P_CAPS_INDEX_READ is a tuple by a stray comma.
_P2P_READ, _P2P_WRITE, _P2P_NVLINK = 0, 1, 2


@dataclass(frozen=True)
class Link:
    """The best path between GPUs `a` and `b` (indices, a < b)."""

    a: int
    b: int
    kind: LinkKind
    nvlinks: int | None = None  # links that join the pair; through a switch, the links of the one that has fewer
    p2p: bool | None = None  # whether each may read and write the other's memory


def read_links(nvml: Nvml, indices: Iterable[int]) -> tuple[Link, ...]:
    """Links between all pairs of the given GPUs; a pair about which NVML says nothing is absent."""
    handles = {index: nvml.nvmlDeviceGetHandleByIndex(index) for index in sorted(indices)}
    ends = {index: _NvlinkEnds.read(nvml, handle) for index, handle in handles.items()}
    links = []
    for a, b in combinations(handles, 2):
        pair = (handles[a], handles[b])
        nvlinks = ends[a].to(ends[b])
        by_nvlink = nvlinks > 0 or _p2p(nvml, *pair, _P2P_NVLINK) is True
        level = ask(nvml.nvmlDeviceGetTopologyCommonAncestor, *pair)
        kind = "nvlink" if by_nvlink else _PCIE_KINDS.get(-1 if level is None else level)
        if kind is not None:
            answers = [_p2p(nvml, *pair, index) for index in (_P2P_READ, _P2P_WRITE)]
            p2p = None if None in answers else all(answers)
            links.append(Link(a, b, kind, (nvlinks or None) if by_nvlink else 0, p2p))
    return tuple(links)


def best_linked(indices: Sequence[int], links: Iterable[Link], count: int) -> tuple[int, ...]:
    """The `count` indices whose weakest link is strongest, then those with the most in sum, then the lowest.

    A collective runs at the pace of its slowest hop, so the weakest link decides.
    """
    ranks = {(link.a, link.b): (_RANK[link.kind], link.nvlinks or 0) for link in links}

    def strength(group: tuple[int, ...]) -> tuple[tuple[int, int], int, int]:
        pairs = [ranks.get(pair, (0, 0)) for pair in combinations(group, 2)]
        return min(pairs, default=(0, 0)), sum(kind for kind, _ in pairs), sum(nvlinks for _, nvlinks in pairs)

    return max(combinations(sorted(indices), count), key=strength)  # max keeps the first of equals


def _p2p(nvml: Nvml, a: Any, b: Any, capability: int) -> bool | None:  # noqa: ANN401 - NVML handles are opaque
    status = ask(nvml.nvmlDeviceGetP2PStatus, a, b, capability)
    return None if status in (None, pynvml.NVML_P2P_STATUS_UNKNOWN) else status == pynvml.NVML_P2P_STATUS_OK


@dataclass(frozen=True)
class _NvlinkEnds:
    """Where one GPU's active NVLinks end: at other GPUs (by PCI address), or at switches."""

    address: tuple[int, int, int] | None
    gpus: tuple[tuple[int, int, int], ...]
    switches: int

    @classmethod
    def read(cls, nvml: Nvml, handle: Any) -> _NvlinkEnds:  # noqa: ANN401 - NVML handles are opaque
        gpus, switches = [], 0
        for link in range(pynvml.NVML_NVLINK_MAX_LINKS):
            if ask(nvml.nvmlDeviceGetNvLinkState, handle, link) != pynvml.NVML_FEATURE_ENABLED:
                continue
            kind = ask(nvml.nvmlDeviceGetNvLinkRemoteDeviceType, handle, link)
            remote = _address(ask(nvml.nvmlDeviceGetNvLinkRemotePciInfo, handle, link))
            if kind == pynvml.NVML_NVLINK_DEVICE_TYPE_SWITCH:
                switches += 1
            elif remote is not None:
                gpus.append(remote)
        return cls(_address(ask(nvml.nvmlDeviceGetPciInfo, handle)), tuple(gpus), switches)

    def to(self, other: _NvlinkEnds) -> int:
        """NVLinks between the two: direct ones, or through a switch that both are plugged into."""
        return self.gpus.count(other.address) if other.address in self.gpus else min(self.switches, other.switches)


def _address(pci: Any) -> tuple[int, int, int] | None:  # noqa: ANN401 - a ctypes structure
    return None if pci is None else (pci.domain, pci.bus, pci.device)
