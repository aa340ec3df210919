"""Beliefs are contradicted where planted data contradicts them, and left alone where it does not."""

from __future__ import annotations

import io
from collections.abc import Callable

import pytest
from rich.console import Console

from common.analysis.learning import beliefs
from common.analysis.learning.beliefs import confront, print_beliefs
from common.analysis.scaling.rivals import BATCH
from common.core.plan import ParallelPlan
from common.store.schema import Case, Result
from tests.analysis.planted import TP1, TP2, X2, case, full, result

Belief = Callable[[Result], str | None]


def pair(split: list[float], copies: list[float] | None = None, curve: str = "fixed", load: int = 16) -> list[Case]:
    """TP=1 at 100 tok/s beside a split model and, if given, two replicas."""
    found = [case(TP1, curve, load, [99.0, 100.0, 101.0]), case(TP2, curve, load, split)]
    return found if copies is None else [*found, case(X2, curve, load, copies)]


def says(belief: Belief, *cases: Case) -> str:
    sentence = belief(result(cases))
    assert sentence is not None
    return sentence


def test_n_devices_are_not_n_times() -> None:
    belief = beliefs.n_devices_are_n_times
    assert "1.50 [1.47, 1.53]x at 16 streams, not 2x" in says(belief, *pair([149.0, 150.0, 151.0]))
    assert belief(result(pair([160.0, 190.0, 220.0]))) is None, "the interval leaves 2 open"
    assert belief(result(pair([219.0, 220.0, 221.0]))) is None, "more than 2"
    assert belief(result(pair([150.0]))) is None, "one repeat has no interval"


def test_memory_does_not_halve() -> None:
    cases = pair([150.0, 151.0, 152.0])
    sentence = says(beliefs.memory_halves, *cases)
    assert "holds 50% of the weights and still 100% of the memory" in sentence
    cases[1].engine["memory_bytes_per_rank"] = [760_000_000] * 2
    assert beliefs.memory_halves(result(cases)) is None, "here it does"
    cases[1].engine["memory_bytes_per_rank"] = [1_500_000_000] * 2
    cases[1].engine["weight_bytes_per_rank"] = cases[0].engine["weight_bytes_per_rank"] * 2
    assert beliefs.memory_halves(result(cases)) is None, "nothing was split: another matter"


def test_equal_memory_is_shown_with_replicas() -> None:
    cases = pair([150.0, 151.0, 152.0], [190.0, 191.0, 192.0])
    cases[2].engine["memory_bytes_per_rank"] = [1_500_000_000, 1_510_000_000]
    cases[2].engine["weight_bytes_per_rank"] = [20_971_520] * 2
    sentence = says(beliefs.equal_memory_proves_tp, *cases)
    assert "tp1x2 splits nothing, yet its devices hold 1.50 to 1.51 GB each" in sentence
    assert "each holds all 21 MB" in sentence
    assert beliefs.equal_memory_proves_tp(result(cases[:2])) is None


def test_links_matter_or_not_by_their_share() -> None:
    slow = pair([149.0, 150.0, 151.0])
    slow[1].engine["all_reduce"] = [{"tokens": 16, "bytes": 8192, "seconds": 1e-3, "path": "shm"}]
    # 17 all-reduces of 1 ms in a step of 16/150 s are 16 %
    assert "at least 16% of a tp2 decoding step at 16 streams" in says(beliefs.links_never_matter, *slow)
    assert beliefs.links_always_matter(result(slow)) is None
    fast = pair([149.0, 150.0, 151.0])
    assert beliefs.links_never_matter(result(fast)) is None
    assert "tp2 wastes 25% of its devices at 16 streams" in says(beliefs.links_always_matter, *fast)
    good = pair([197.0, 198.0, 199.0])
    assert beliefs.links_always_matter(result(good)) is None, "nothing is lost"
    fast[1].engine["all_reduce_traced"] = {"share": 0.4, "streams": 16}
    assert beliefs.links_always_matter(result(fast)) is None, "the upper bound leaves it open"


def test_replicas_may_win() -> None:
    cases = pair([149.0, 150.0, 151.0], [179.0, 180.0, 181.0])
    assert "tp1x2 gives 1.20 [1.18, 1.22]x of tp2" in says(beliefs.tp_beats_replicas, *cases)
    cases = pair([149.0, 150.0, 151.0], [119.0, 120.0, 121.0])
    assert says(beliefs.tp_beats_replicas, *cases).startswith("here it does")
    assert beliefs.tp_beats_replicas(result(pair([140.0, 150.0, 160.0], [140.0, 151.0, 165.0]))) is None


def test_tp_may_help_latency() -> None:
    assert "0.67 [0.65, 0.68] of the time per token of tp1" in says(
        beliefs.tp_worsens_latency, *pair([149.0, 150.0, 151.0])
    )
    assert beliefs.tp_worsens_latency(result(pair([90.0, 91.0, 92.0]))) is None
    cases = [*pair([80.0, 100.0, 125.0], load=1), *pair([149.0, 150.0, 151.0])]
    assert "of tp1; at 1 stream this run does not show it: all" in says(beliefs.tp_worsens_latency, *cases)


def test_busy_devices_may_waste_their_time() -> None:
    cases = pair([119.0, 120.0, 121.0])
    assert beliefs.full_utilisation_means_work(result(cases)) is None, "nobody watched"
    cases[1].monitor = {"cpu0_utilisation_mean": 0.97, "cpu1_utilisation_mean": 0.99, "cpu_utilisation_mean": 0.5}
    assert "98% busy at 16 streams and each did 60%" in says(beliefs.full_utilisation_means_work, *cases)
    cases[1].monitor = {"gpu0_utilisation_mean": 0.5, "cpu0_utilisation_mean": 1.0}
    assert beliefs.full_utilisation_means_work(result(cases)) is None, "the devices are the GPUs"


@pytest.mark.parametrize(
    ("batches", "said"),
    [
        ([99.0, 101.0, 103.0], "no more, as far as this run can tell"),
        ([149.0, 150.0, 151.0], "here it does: 1.49"),
        ([89.0, 90.0, 91.0], "less: the engine batches what comes"),
    ],
)
def test_a_batch_is_compared_with_the_same_requests_one_by_one(batches: list[float], said: str) -> None:
    pairs = case(TP1, "batch", 8, [100.0, 100.5, 101.0])
    for repeat, rate in zip(pairs.repeats, batches, strict=True):
        repeat[BATCH] = rate
    assert said in says(beliefs.a_batch_beats_concurrency, pairs)
    assert beliefs.a_batch_beats_concurrency(result([case(TP1, "batch", 8, [100.0, 101.0])])) is None
    del pairs.repeats[1:]
    assert beliefs.a_batch_beats_concurrency(result([pairs])) is None, "one pair has no interval"


def test_more_load_may_only_wait_longer() -> None:
    climb = [case(TP1, "ladder", streams, [rate]) for streams, rate in ((16, 100.0), (32, 103.0))]
    assert "from 16 to 32 streams tp1 gives 1.03x the tokens per second and 1.9x the wait" in says(
        beliefs.more_load_is_better, *climb
    )
    repeated = case(TP1, "saturated", 16, [80.0, 80.0, 80.0])
    assert "1.03x" in says(beliefs.more_load_is_better, *climb, repeated), "repeats are held over no single rung"
    climb = [case(TP1, "ladder", streams, [rate]) for streams, rate in ((16, 100.0), (32, 190.0))]
    assert beliefs.more_load_is_better(result(climb)) is None


@pytest.mark.parametrize("cases", [[], [case(TP1, "fixed", 1, [])], [case(ParallelPlan(pp=2), "fixed", 1, [1.0])]])
def test_a_result_that_compares_nothing_contradicts_nothing(cases: list[Case]) -> None:
    assert confront(result(cases)) == []


def test_no_more_are_printed_than_asked() -> None:
    assert len(confront(full())) > 2
    stream = io.StringIO()
    print_beliefs(full(), 2, Console(file=stream, width=80))
    assert stream.getvalue().count('- "') == 2
    stream = io.StringIO()
    print_beliefs(result([]), 2, Console(file=stream, width=80))
    assert stream.getvalue() == ""
