"""Plays back recorded NVML answers: has the functions of `pynvml`, by name."""

from __future__ import annotations

import json
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pynvml

Answer = Any  # what NVML gives: numbers, texts, structures, lists of them

RECORDED = Path(__file__).parent / "recorded"
A100 = "4x-a100-sxm4-80gb-nvswitch.json"
L4 = "4x-l4-pcie-no-p2p.json"
RTX_3090 = "3x-rtx-3090-one-bridge.json"
HIDDEN = "2x-a10g-container-hides-processes.json"


@dataclass(frozen=True)
class Handle:
    index: int


class Replay:
    """NVML on the machine of one recording; `failing` calls raise the given NVML error."""

    def __init__(self, recording: str, failing: dict[str, int] | None = None) -> None:
        recorded = json.loads((RECORDED / recording).read_text())
        self.system: dict[str, Any] = recorded["system"]
        self.gpus: list[dict[str, Any]] = [recorded["every_gpu"] | gpu for gpu in recorded["gpus"]]
        self._pairs = recorded["pairs"]
        self._process_names = recorded["process_names"]
        self.failing = failing or {}

    def __getattr__(self, name: str) -> Answer:
        if not name.startswith("nvml"):
            raise AttributeError(name)
        return partial(self._answer, name)

    def nvmlDeviceGetCount(self) -> int:
        return len(self.gpus)

    def nvmlDeviceGetHandleByIndex(self, index: int) -> Handle:
        return Handle(index)

    def nvmlDeviceGetHandleByUUID(self, uuid: str) -> Handle:
        for index, gpu in enumerate(self.gpus):
            if gpu["nvmlDeviceGetUUID"] == uuid:
                return Handle(index)
        raise pynvml.NVMLError(pynvml.NVML_ERROR_NOT_FOUND)

    def nvmlSystemGetProcessName(self, pid: int) -> str:
        if str(pid) not in self._process_names:
            raise pynvml.NVMLError(pynvml.NVML_ERROR_NOT_FOUND)
        return str(self._process_names[str(pid)])

    def _answer(self, name: str, *arguments: object) -> Answer:
        if name in self.failing:
            raise pynvml.NVMLError(self.failing[name])
        handles = [argument.index for argument in arguments if isinstance(argument, Handle)]
        numbers = [argument for argument in arguments if isinstance(argument, int)]
        with_numbers = f"{name}({','.join(map(str, numbers))})"
        if not handles:
            return _value(self.system, name)
        if len(handles) == 2:
            table = _value(self._pairs, with_numbers if numbers else name)
            return table[handles[0]][handles[1]]
        gpu = self.gpus[handles[0]]
        if with_numbers in gpu:
            return gpu[with_numbers]
        answer = _value(gpu, name)
        if "NvLink" in name and isinstance(answer, list):  # one answer per link
            if numbers[0] >= len(answer):
                raise pynvml.NVMLError(pynvml.NVML_ERROR_INVALID_ARGUMENT)
            return answer[numbers[0]]
        return answer


def _value(answers: dict[str, Any], name: str) -> Answer:
    if name not in answers:
        raise pynvml.NVMLError(pynvml.NVML_ERROR_NOT_SUPPORTED)
    return _structure(answers[name])


def _structure(answer: Answer) -> Answer:
    if isinstance(answer, dict):
        return SimpleNamespace(**answer)
    if isinstance(answer, list) and answer and isinstance(answer[0], dict):
        return [SimpleNamespace(**item) for item in answer]
    return answer
