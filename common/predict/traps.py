"""Two published measurements that mislead who does not know why: memory that looks like speed-up, and links."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from common.core.published import Published
from common.predict.calibrate import predict, stored_priors
from common.predict.cases import Measured, read_cases
from common.predict.evaluate import sample_of
from common.predict.hardware import DATA
from common.predict.step import Floats, log_rate, sequences

PUBLIC, LINKS = DATA / "public_cases.json", DATA / "link_cases.json"
STARVED = "trt/v0.14-L70-H100-FP8"  # 70 GB of weights on a GPU of 80


def starved() -> list[Published]:
    """A model that barely fits on one GPU, at three lengths of request, with what the step model says of its memory.

    All rows calibrate the model. `pinned` is then what it predicts where larger plans run no more requests at once than
    the KV cache of the smallest one holds.
    """
    group = [row for row in read_cases(PUBLIC)[0] if row.group == STARVED]
    held, pinned = _by_memory(group)
    found = []
    for case in _cases(PUBLIC):
        at = [number for number, row in enumerate(group) if row.id == case["id"]]
        if at:
            devices = [group[number].devices for number in at]
            held_here = dict(zip(devices, held[at].tolist(), strict=True))
            pinned_here = dict(zip(devices, pinned[at].tolist(), strict=True))
            found.append(replace(_published(case), held=held_here, pinned=pinned_here))
    return found


def links() -> list[Published]:
    """The same GPU, model, engine and workloads with two kinds of links."""
    return [_published(case) for case in _cases(LINKS)]


def _by_memory(group: list[Measured]) -> tuple[Floats, Floats]:
    """Requests held at once, and speed-up with the smallest plan's, of each row."""
    sample = sample_of(group, {row.devices for row in group})
    constants = predict(sample, stored_priors()).constants
    held, logs = sequences(constants, sample.rows), log_rate(constants, sample.rows)
    own = [[other for other, row in enumerate(group) if row.id == case.id] for case in group]
    smallest = np.array([min(rows, key=lambda row: group[row].devices) for rows in own])
    pinned = log_rate(constants, replace(sample.rows, concurrency=held[smallest]))
    speedup = np.where(np.arange(len(group)) == smallest, 1.0, np.exp(pinned - logs[smallest]))
    return held, speedup


def _cases(path: Path) -> list[dict[str, Any]]:
    cases: list[dict[str, Any]] = json.loads(path.read_text(encoding="utf-8"))["cases"]
    return cases


def _published(case: dict[str, Any]) -> Published:
    return Published(
        machine=f"{case['gpu']}, {case['interconnect']}",
        model=f"{case['model']}, {case['dtype']}",
        engine=f"{case['engine']} {case['version']}",
        workload=f"{case['input_len']} tokens in, {case['output_len']} out",
        source=case["url"],
        rates={row["gpus"]: row["output_tok_s"] for row in case["rows"] if row["tp"] == row["gpus"]},
    )
