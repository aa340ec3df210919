"""Greedy answers beside the request records: tokens and log-probabilities, for comparison with another engine's."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from pydantic import TypeAdapter, ValidationError

from common.core.greedy import Answer
from common.store.files import StoreError


@dataclass(frozen=True)
class KeptAnswers:
    """What one engine answered, and what its ranks held; weights are empty where the engine did not tell."""

    case_id: str
    weight_bytes_per_rank: list[int]
    answers: Sequence[Answer]


_KEPT = TypeAdapter(KeptAnswers)


def answers_path(folder: Path, case_id: str, start: int) -> Path:
    """Where a case's answers are kept; resumed runs find them there."""
    return folder / f"{case_id.replace('/', '-')}-start{start}.answers.json"


def save_answers(kept: KeptAnswers, path: Path) -> None:
    """Write them in one step, so that a kill leaves the former file or the new one.

    Raises:
        StoreError: the disk is full or gone.
    """
    half = path.with_suffix(".part")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        half.write_bytes(_KEPT.dump_json(kept))
        half.replace(path)
    except OSError as error:
        raise StoreError(f"cannot save {path}: {error.strerror}; make room, then run the same command again") from error


def load_answers(path: Path) -> KeptAnswers:
    """Read them back.

    Raises:
        StoreError: missing, truncated, or not answers.
    """
    try:
        return _KEPT.validate_json(path.read_bytes(), strict=False)
    except OSError as error:
        raise StoreError(f"{path.name} is not there ({error.strerror}); run with --no-resume") from error
    except ValidationError as error:
        raise StoreError(f"{path.name} is truncated or holds no answers; run with --no-resume") from error
