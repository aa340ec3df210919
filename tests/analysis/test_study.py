"""Do the intervals mean what they say? A thousand studies with planted truth, and studies with planted mistakes."""

from __future__ import annotations

import pytest

from common.analysis.scaling.reading import read_scaling
from common.analysis.scaling.rows import sampling_unit, scaling_rows
from tests.analysis.planted import TP1, TP2, engine
from tests.analysis.study import Study

STUDIES = 1_000


def coverage(study: Study) -> float:
    """The share of seeded studies whose 95 % interval of the speed-up holds the truth."""
    held = 0
    for seed in range(STUDIES):
        gained = scaling_rows(study.run(seed))[1].speedup
        assert gained is not None and gained.low is not None and gained.high is not None
        held += gained.low <= study.speedup <= gained.high
    return held / STUDIES


@pytest.mark.slow
@pytest.mark.parametrize(
    "study",
    [
        pytest.param(Study(), id="lab: three starts"),
        pytest.param(Study(starts=5, repeats=3), id="full: five starts", marks=pytest.mark.slow),
        pytest.param(Study(drift=0.02), id="with drift", marks=pytest.mark.slow),
        pytest.param(Study(speedup=0.95, between_starts=0.10, inside_start=0.03), id="a noisy machine, and no gain"),
    ],
)
def test_95_percent_intervals_hold_the_truth_95_times_in_100(study: Study) -> None:
    assert 0.93 <= coverage(study) <= 0.97


def test_the_sample_is_the_engine_start() -> None:
    """Ten thousand repeats inside three starts are three samples: more repeats must not make intervals narrow."""
    few, many = Study(repeats=2).run(7), Study(repeats=200).run(7)
    assert sampling_unit(few.cases) == sampling_unit(many.cases) == "between-starts"
    widths = [scaling_rows(found)[1].speedup for found in (few, many)]
    assert all(width is not None and width.low is not None for width in widths)
    assert [width.n for width in widths if width] == [3, 3]


def test_repeats_inside_one_start_would_have_claimed_too_much() -> None:
    """Why starts are repeated: with one start the interval knows nothing of the spread between starts."""
    study = Study(starts=1, repeats=5)
    held = 0
    for seed in range(300):
        found = study.run(seed)
        for one in found.cases:
            one.repeats = [repeat for repeat in one.repeats if repeat["start"] == 0]
        gained = scaling_rows(found)[1].speedup
        assert gained is not None and gained.low is not None and gained.high is not None
        held += gained.low <= study.speedup <= gained.high
    assert held / 300 < 0.7


@pytest.mark.parametrize("seed", range(5))
def test_a_planted_first_repeat_bias_is_named(seed: int) -> None:
    """What `vllm bench sweep` met: a first repeat at less than half of what the engine does."""
    lines = read_scaling(Study(first_repeat=0.45, repeats=3).run(seed))
    assert any(
        line.startswith("Doubtful: tp2/fixed/c16 fails the check 'first repeat agrees': output throughput -")
        for line in lines
    )
    honest = read_scaling(Study(repeats=3).run(seed))
    assert not any("first repeat agrees" in line for line in honest)


def test_a_planted_kv_starved_base_is_named() -> None:
    found = Study(curve="saturated", streams=64).run(0)
    assert not any("short of KV cache" in line for line in read_scaling(found))
    base = found.cases[0]
    base.engine = engine(TP1, kv_cache_tokens=40 * (64 + 32))
    for repeat in base.repeats:
        repeat["preemptions"] = 3.0
    (named,) = [line for line in read_scaling(found) if "short of KV cache" in line]
    assert "room for 40 of 64 sequences and 21 preemptions" not in named, "seven repeats would be another study"
    assert "room for 40 of 64 sequences and 24 preemptions" in named
    assert "memory, not parallelism" in named


@pytest.mark.parametrize(("drift", "named"), [(0.5, True), (-0.4, True), (0.0, False)])
def test_a_machine_that_changes_is_named(drift: float, named: bool) -> None:
    study = Study(drift=drift, between_starts=0.01, starts=5)
    lines = [line for line in read_scaling(study.run(1)) if line.startswith("The machine changed during the run")]
    assert bool(lines) is named


def test_unresolved_is_said_in_words() -> None:
    lines = read_scaling(Study(speedup=1.0, between_starts=0.05).run(3))
    assert any("not resolved from no gain" in line for line in lines)


def test_tp2_without_its_base_is_no_comparison() -> None:
    assert scaling_rows(Study().run(0, plans=(TP2,)))[0].is_base
