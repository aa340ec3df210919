"""A dry run for a machine that is not here, of a model that is not here."""

from __future__ import annotations

from pathlib import Path

import pytest

from common.engines.models import ModelError
from common.experiment import planned
from tests.experiment.script import Script


def test_more_gpus_than_this_machine_has(script: Script, tmp_path: Path) -> None:
    wanted = ("--model", "qwen2-9m", "--dry-run", "--results-dir", str(tmp_path))
    here, there = script(*wanted), script(*wanted, "--dry-run-gpus", "4")
    assert "tp4/saturated            skipped" in here.out
    assert "skipped" not in there.out
    assert there.last["summary"]["cases"] > here.last["summary"]["cases"]


@pytest.mark.parametrize(
    ("words", "why"),
    [
        (("--dry-run-gpus", "4"), "--dry-run-gpus 4: GPUs that are not here; add --dry-run"),
        (("--dry-run", "--dry-run-gpus", "0"), "--dry-run-gpus 0: from 1 to 64 can be planned for"),
    ],
)
def test_refused(script: Script, words: tuple[str, ...], why: str) -> None:
    assert why in script("--model", "qwen2-9m", *words).refusal()


def test_the_shape_of_a_known_model_where_the_hub_is_not_reached(monkeypatch: pytest.MonkeyPatch) -> None:
    def unreachable(*_: object, **__: object) -> None:
        raise ModelError("the hub cannot be reached")

    monkeypatch.setattr(planned, "find_model", unreachable)
    assert planned.planned_model("Qwen/Qwen2.5-7B-Instruct").shape.num_hidden_layers == 28
    for unknown in ("me/my-7B", "me/mine", "qwen2-9x"):
        with pytest.raises(ModelError):
            planned.planned_model(unknown)
