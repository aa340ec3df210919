"""The exported JSON Schema is the schema."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from common.store import files
from common.store.schema import SCHEMA_VERSION
from tests.store.sample import sample_result

ROOT = Path(__file__).resolve().parents[2]
EXPORTED = ROOT / "results" / "schema.json"


def saved(path: Path) -> dict[str, Any]:
    files.save(sample_result(), path)
    content: dict[str, Any] = json.loads(path.read_text())
    return content


def test_the_committed_schema_is_what_the_module_writes() -> None:
    written = subprocess.run(
        [sys.executable, "-m", "common.store.schema"], capture_output=True, text=True, check=True, cwd=ROOT
    )
    assert EXPORTED.read_text() == written.stdout, "run: python -m common.store.schema > results/schema.json"


def test_a_saved_result_validates(tmp_path: Path) -> None:
    jsonschema = pytest.importorskip("jsonschema")
    schema = json.loads(EXPORTED.read_text())
    jsonschema.Draft202012Validator.check_schema(schema)
    jsonschema.Draft202012Validator(schema).validate(saved(tmp_path / "x.json"))


@pytest.mark.parametrize(
    ("key", "value"), [("status", "done"), ("cases", [{}]), ("cases", None), ("surprise", 1), ("method_version", "one")]
)
def test_a_wrong_result_does_not_validate(tmp_path: Path, key: str, value: object) -> None:
    jsonschema = pytest.importorskip("jsonschema")
    validator = jsonschema.Draft202012Validator(json.loads(EXPORTED.read_text()))
    assert not validator.is_valid({**saved(tmp_path / "x.json"), key: value})


def test_repeats_are_flat_numbers_without_null(tmp_path: Path) -> None:
    content = saved(tmp_path / "x.json")
    assert content["schema_version"] == SCHEMA_VERSION
    values = [value for case in content["cases"] for repeat in case["repeats"] for value in repeat.values()]
    assert values
    assert all(isinstance(value, (int, float)) for value in values)


def test_vllms_names_occur_only_inside_repeats(tmp_path: Path) -> None:
    content = saved(tmp_path / "x.json")
    names = {"output_throughput", "mean_ttft_ms", "duration"}
    for case in content["cases"]:
        case.pop("repeats")
        assert not names & set(case)
    assert not names & set(content)
