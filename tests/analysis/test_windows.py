"""What a table's numbers are of, said only of the rows it is true for."""

from __future__ import annotations

from common.analysis.scaling.reading import caveats
from common.analysis.scaling.rows import scaling_rows
from common.analysis.scaling.windows import windows
from common.core.verdict import Verdict
from common.core.workload import Workload
from common.store.schema import Case
from tests.analysis.planted import TP1, TP2, case, replay, result

RATES = [99.0, 100.0, 101.0]


def said(*cases: Case) -> list[str]:
    return list(windows(scaling_rows(result(cases))))


def steady(made: Case) -> Case:
    for repeat in made.repeats:
        repeat["steady_output_throughput"] = repeat["output_throughput"]
    return made


def occupied(made: Case, *shares: float) -> Case:
    """The case with this share of its streams under way on average, repeat by repeat."""
    for repeat, share in zip(made.repeats, shares, strict=True):
        repeat["request_throughput"] = repeat["output_throughput"] / 32
        repeat["mean_e2el_ms"] = 1e3 * share * made.arrivals.concurrency / repeat["request_throughput"]  # type: ignore[union-attr]
    return made


def test_rows_are_named_where_only_some_are_steady() -> None:
    mixed = (steady(case(TP1, "fixed", 1, RATES)), steady(case(TP2, "fixed", 1, RATES)), case(TP1, "fixed", 16, RATES))
    first, second = said(*mixed)
    assert first.startswith("Numbers of fixed at 1 stream are of the steady window")
    assert second.startswith("Numbers of fixed at 16 streams are of whole repeats: all clients begin at once")
    assert {first, second} <= set(caveats(result(mixed)))


def test_nothing_is_named_where_all_are_alike() -> None:
    (line,) = said(steady(case(TP1, "fixed", 16, RATES)))
    assert line.startswith("Numbers are of the steady window")
    (line,) = said(case(TP1, "fixed", 16, RATES))
    assert line.startswith("Numbers are of whole repeats")
    assert said(case(TP1, "fixed", 1, RATES)) == [], "one client waits for nobody"
    assert said(replay(TP1, RATES)) == [], "its requests come by the clock"


def test_one_request_per_client_is_a_burst() -> None:
    burst, other = case(TP1, "saturated", 64, RATES), case(TP1, "fixed", 16, RATES)
    burst.workload = Workload(64, 64, 32, 10240)
    (line,) = [line for line in said(burst, other) if "burst" in line]
    assert line.startswith("One request per client in saturated:")
    burst.workload = Workload(65, 64, 32, 10240)
    assert not any("burst" in line for line in said(burst, other))


def test_streams_that_stood_idle_are_named_with_their_share() -> None:
    full, drained = occupied(case(TP1, "fixed", 16, RATES), 1.0, 0.96, 0.97), case(TP2, "fixed", 16, RATES)
    occupied(drained, 0.86, 0.95, 0.86)
    (line,) = [line for line in said(full, drained) if "idle" in line]
    assert line.endswith("lower for it: tp2/fixed/c16 11% of the time.")
    for repeat in drained.repeats:
        repeat["slots_in_flight_share"] = 0.9
    assert not any("idle" in line for line in said(full, drained)), "the client left them empty, which has a verdict"
    for repeat in drained.repeats:
        del repeat["slots_in_flight_share"]
    drained.client = Verdict("INVALID", ["slots"], "less load")
    assert not any("idle" in line for line in said(full, drained))
