"""What a decision rests on, what it says, and what it refuses; the truth is planted."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from common.analysis.decision.answer import Decision, Foretold, Question, capacities, carried, decide, limit_turns
from common.analysis.decision.changes import changes
from common.analysis.decision.evidence import given_evidence, own_evidence
from common.analysis.decision.loads import Load, loads_of
from common.analysis.decision.page import Page, foretold_shown, markdown, summary, write_page
from common.analysis.decision.reading import answer_lines, doubts, headline, rate_words, side_by_side
from common.analysis.frames import RESULTS
from common.core.capacity import Prices
from common.core.plan import ParallelPlan
from common.core.record import RequestRecord
from common.core.stats import Estimate
from common.core.verdict import Verdict
from common.core.workload import Workload
from common.store.files import ResultPaths, StoreError, save
from common.store.requests import requests_file, save_requests
from common.store.schema import Case, Result
from tests.analysis import planted
from tests.analysis.planted import TP1, TP2, X2
from tests.analysis.planted_concurrency import LADDER, batch, closed, open_loop, result

HELD = {"ttft": 1000.0, "tpot": 100.0}
TP1_RATE, TP2_RATE = 16 / (1 + 15 / 17), 1.5 * 16 / (1 + 15 / 17)  # at 16 clients; 64 keep no limits
TP4 = ParallelPlan(tp=4)


def two_plans() -> list[Case]:
    return [closed(TP1, clients) for clients in LADDER] + [closed(TP2, clients, 1.5) for clients in LADDER]


def stored(folder: Path, made: Result, name: str = "20260101T000000Z-synthetic") -> Path:
    path = folder / made.experiment / f"{name}.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    save(made, path)
    return path


def loads(cases: list[Case], path: Path = Path("/nowhere/x.json")) -> list[Load]:
    return loads_of(path, result(cases))


def asked(rate: float = 20.0, limits: dict[str, float] | None = None, **prices: float) -> Question:
    return Question(rate, limits or HELD, 2, Prices(**prices))


def fits(_: Result) -> str:
    return ""


def decided(cases: list[Case], question: Question | None = None, foretold: tuple[Foretold, ...] = ()) -> Decision:
    found = loads(cases)
    return decide(question or asked(), found[0].work, found, foretold)


def test_each_plan_counts_with_the_low_end_of_its_largest_rate_within_the_limits() -> None:
    one, two = carried(loads(two_plans()), HELD)
    assert one.best is not None and two.best is not None and one.failed is not None
    assert [one.best.words, one.failed.words] == ["16 clients", "64 clients"]
    assert one.best.rate.value == pytest.approx(TP1_RATE, rel=1e-4) and one.best.sized < TP1_RATE
    assert two.best.sized == pytest.approx(TP2_RATE, rel=0.01)


def test_the_cheapest_plan_is_that_of_the_smaller_spare() -> None:
    """20/s: three tp1 and a spare are 4 devices; two tp2 and a spare are 6."""
    found = decided(two_plans(), asked(usd_per_hour=1.0))
    assert found.chosen is not None and found.chosen.capacity.engine == TP1
    assert (found.chosen.engines, found.chosen.devices, found.chosen.machines) == (3, 4, 2)
    assert headline(found).endswith("2 machines with 4 engines of tp1, one of them spare, $1,460 a month rented")
    text = " ".join(answer_lines(found))
    assert "ASSUMED: engines add up" in text and "Bought: left out" in text
    assert "Those on one machine share it, and how many machines it takes rests on that." in text


def test_one_request_per_second_is_one() -> None:
    assert [rate_words(rate) for rate in (1.0, 0.5, 20.0, 1e6)] == [
        "1 request per second",
        "0.5 requests per second",
        "20 requests per second",
        "1,000,000 requests per second",
    ]


def test_an_invalid_client_neither_counts_nor_stands_in_the_way() -> None:
    cases = [closed(TP1, clients) for clients in LADDER]
    cases[1].client = cases[3].client = Verdict("INVALID", ["halts"], "fewer neighbours")
    (one,) = carried(loads(cases), HELD)
    assert one.best is not None and one.best.level == 16 and one.failed is None
    cases[2].client = cases[1].client
    (one,) = carried(loads(cases), HELD)
    assert one.best is not None and one.best.level == 1


def test_a_lighter_load_that_failed_ends_the_climb() -> None:
    cases = [closed(TP1, clients) for clients in (1, 4, 16)]
    for repeat in cases[1].repeats:
        repeat["good_fraction"] = 0.5
    (one,) = carried(loads(cases), HELD)
    assert one.best is not None and one.best.level == 1 and one.failed is not None and one.failed.level == 4


def test_of_two_measurements_of_one_load_the_worse_counts() -> None:
    slow = closed(TP1, 16, 0.5)
    slow.id = "tp1/fixed/c16"
    slow.curve = "fixed"
    (one,) = carried(loads([closed(TP1, 16), slow]), HELD)
    assert one.best is not None and one.best.rate.value == pytest.approx(TP1_RATE / 2, rel=1e-4)


def burst(good: float, clients: int = 16) -> Case:
    """One request of each client, measured once, as `fixed` beside the `closed` of the same load."""
    once = closed(TP1, clients, off=(1.0,))
    once.id, once.curve, once.workload = f"tp1/fixed/c{clients}", "fixed", Workload(clients, 32, 32, 10240)
    once.repeats[0]["good_fraction"] = good
    return once


def test_a_load_measured_once_does_not_overrule_the_same_load_repeated() -> None:
    (one,) = carried(loads([closed(TP1, 4), closed(TP1, 16), burst(0.0)]), HELD)
    assert one.best is not None and one.best.level == 16 and one.best.rate.low is not None and one.failed is None
    (one,) = carried(loads([closed(TP1, 4), burst(0.0)]), HELD)
    assert one.failed is not None and one.failed.level == 16, "alone it counts"


def test_measurements_of_one_load_that_disagree_are_named() -> None:
    named = "tp1 at 16 clients was measured 2 times and was not always within the limits: the worst counts."
    other = closed(TP1, 16)
    other.id, other.curve = "tp1/fixed/c16", "fixed"
    assert named not in doubts(decided([closed(TP1, 4), closed(TP1, 16), other]))
    for repeat in other.repeats:
        repeat["good_fraction"] = 0.5
    assert named in doubts(decided([closed(TP1, 4), closed(TP1, 16), other]))
    assert named not in doubts(decided([closed(TP1, 4), closed(TP1, 16), burst(0.0)])), "repeated stands for once"


def test_clients_that_sent_one_request_did_not_wait() -> None:
    said = " ".join(doubts(decided([burst(1.0)])))
    assert "Clients waited" not in said
    assert "tp1 at 16 clients: one request of each, all at once: a burst, not a steady load." in said
    said = " ".join(doubts(decided([closed(TP1, 16)])))
    assert "Clients waited" in said and "burst" not in said


def test_a_plan_whose_loads_are_all_invalid_is_named_with_the_answer(tmp_path: Path) -> None:
    broken = closed(TP2, 16)
    broken.client = Verdict("INVALID", ["halts"], "fewer neighbours")
    said = ["tp2 was measured and does not count: its client is INVALID (tp2/closed/c16)."]
    beside = stored(tmp_path / "a", result([closed(TP1, 16), broken]))
    assert given_evidence([beside], fits).dropped() == said
    stored(tmp_path / "b", result([broken]), "20260102T000000Z-alone")
    stored(tmp_path / "b", result([closed(TP1, 16)]))
    assert own_evidence(tmp_path / "b", fits).dropped() == said
    assert given_evidence([tmp_path / "b"], fits).dropped() == said
    stored(tmp_path / "b", result([closed(TP2, 4)]), "20260103T000000Z-sound")
    assert own_evidence(tmp_path / "b", fits).dropped() == [], "another load of it counts"


def test_a_load_measured_once_sizes_nothing_where_another_was_repeated() -> None:
    once = closed(TP1, 32, off=(1.0,))
    once.repeats[0]["good_fraction"] = 1.0
    (one,) = carried(loads([closed(TP1, 16), once]), HELD)
    assert one.best is not None and one.best.level == 16 and one.once is not None and one.once.level == 32
    (alone,) = carried(loads([once]), HELD)
    assert alone.best is not None and alone.best.level == 32 and alone.best.sized == alone.best.rate.value
    assert any("measured once" in line for line in doubts(decided([once])))


def test_requests_by_the_clock_bound_what_clients_that_wait_seem_to_allow() -> None:
    clocked = [open_loop(TP1, 4.0), open_loop(TP1, 6.0)]
    for repeat in clocked[0].repeats:
        repeat["good_fraction"] = 1.0
    for repeat in clocked[1].repeats:
        repeat["good_fraction"] = 0.2
    (one,) = carried(loads([closed(TP1, clients) for clients in LADDER] + clocked), HELD)
    assert one.best is not None and one.best.sized < 6.0 and one.best.words == "4/s by the clock"
    assert one.failed is not None and one.failed.words == "6/s by the clock"


def test_replicas_that_were_measured_are_not_assumed() -> None:
    """Two replicas that give 1.2 times one: four of them are 2.4 times, not 4."""
    found = decided([closed(TP1, 16), closed(X2, 16, 1.2)], asked(19.0))
    (capacity,) = found.capacities
    assert capacity.rate(2) == pytest.approx(1.2 * TP1_RATE, rel=0.01)
    assert capacity.engines_for(19.0) == 4
    assert side_by_side(found)[0].startswith(
        "2 engines of tp1 side by side were seen to carry 10.2/s together. Every 2"
    )
    assert not any(
        "ASSUMED" in line for line in answer_lines(decided([closed(TP1, 16), closed(X2, 16, 2.0)], asked(16)))
    )


def test_the_first_line_says_where_engines_that_share_a_machine_decide() -> None:
    words = "if 2 engines on one machine add up (ASSUMED, and it decides): "
    assert words in headline(decided(two_plans()))
    alone = Question(20.0, HELD, 1)  # a machine of its own for each engine
    for certain in (decided([closed(TP1, 16)], alone), decided([closed(TP1, 16), closed(X2, 16, 1.5)])):
        assert "ASSUMED" not in headline(certain)
        assert "rests on that" not in " ".join(answer_lines(certain))


def test_engines_that_carry_less_side_by_side_count_as_the_fewer() -> None:
    (line,) = side_by_side(decided([closed(TP1, 16), closed(X2, 16, 0.5)]))
    assert line == (
        "2 engines of tp1 side by side were seen to carry 4.24/s together, fewer of them 8.48/s, so the rest may as"
        " well idle. Every 2 of them on the list above count for 8.48/s."
    )


def test_stricter_limits_than_those_held_need_percentiles_or_requests(tmp_path: Path) -> None:
    """p99 of TTFT is 3.8 s / 5 at 16 clients; TPOT's is 117 ms: what keeps 200 ms of it is shown, 60 ms is not."""
    (one,) = carried(loads([closed(TP1, 16)]), {"tpot": 200.0})
    assert one.best is not None
    (one,) = carried(loads([closed(TP1, 16)]), {"tpot": 60.0})
    assert one.best is None and one.failed is not None
    share = one.failed.share({"tpot": 60.0})
    assert share.low < 0.9 <= share.high, "half of them, by the median; no more is known"
    path = stored(tmp_path, result([with_requests(tmp_path, tpot_ms=50)]))
    (exact,) = given_evidence([path], fits).loads((None, None))[0]
    assert exact.is_exact and exact.within({"tpot": 60.0}) and not exact.within({"tpot": 49.0})


def with_requests(folder: Path, tpot_ms: int) -> Case:
    case = closed(TP1, 16)
    path = folder / "simulate_concurrent_requests" / "20260101T000000Z-synthetic.json"
    for repeat in case.repeats:
        repeat["num_prompts"] = repeat["completed"] = 10.0
        stamps = [round((100 + tpot_ms * place) * 1e6) for place in range(5)]
        records = [RequestRecord(index, "x", 5, sent_ns=0, chunk_ns=stamps, output_tokens=5) for index in range(10)]
        save_requests(records, requests_file(ResultPaths(path).requests, case.id, 0, int(repeat["repeat"])))
    return case


def test_requests_that_are_not_whole_are_not_believed(tmp_path: Path) -> None:
    case = with_requests(tmp_path, tpot_ms=50)
    path = stored(tmp_path, result([case]))
    file = requests_file(ResultPaths(path).requests, case.id, 0, 1)
    file.write_bytes(file.read_bytes()[:100])
    (load,) = given_evidence([path], fits).loads((None, None))[0]
    assert not load.is_exact and load.within(HELD), "the share that was held is still known"


def test_limits_turn_where_the_loads_do() -> None:
    """TPOT p99 at 16 clients is the strictest that both plans' 16 can be shown to keep; below it 4 clients are left."""
    question = asked(limits={"tpot": 200.0})
    turns = limit_turns(loads(two_plans()), question)
    assert turns and all(turn.name == "tpot" for turn in turns)
    for turn in turns:
        beyond = turn.limit_ms * (0.9999 if turn.stricter else 1.0)
        changed = decided(two_plans(), asked(limits={"tpot": beyond})).chosen
        assert changed is not None and turn.need is not None
        assert (changed.capacity.engine, changed.engines) == (turn.need.capacity.engine, turn.need.engines)


def test_limits_that_nobody_keeps_are_an_answer() -> None:
    found = decided(two_plans(), asked(limits={"ttft": 0.5}))
    assert found.chosen is None and "no plan was seen to keep the limits" in headline(found)
    assert any("nine requests of ten kept TTFT" in line for line in answer_lines(found))
    assert any(line.startswith("Limit: with TTFT at") for line in changes(found))
    assert summary(found)["chosen"] is None
    assert "| tp1 | 1 | none tried |" in markdown(Page(found, "somewhere", [], [], []), [])


def test_what_the_lightest_load_kept_is_that_of_its_worst_measurement() -> None:
    """Else a limit that it kept in one run stands below a verdict that rests on another."""
    slow = closed(TP1, 1, 0.5)
    slow.id, slow.curve = "tp1/fixed/c1", "fixed"
    limits = {"tpot": 0.5}
    (alone,) = (line for line in answer_lines(decided([slow], asked(limits=limits))) if "lightest" in line)
    (both,) = (
        line for line in answer_lines(decided([closed(TP1, 1), slow], asked(limits=limits))) if "lightest" in line
    )
    assert both == alone.replace("load tried", "load tried (the worst of 2 measurements of it)")


def foretold(plan: ParallelPlan, rate: float) -> Foretold:
    return Foretold(plan, 64, Estimate("request_rate", "1/s", 2 * rate, rate, 4 * rate), 50.0, 40.0)


def test_a_prediction_is_named_and_never_chosen_over_a_measurement() -> None:
    found = decided(two_plans(), asked(100.0), (foretold(TP4, 1e4), foretold(TP1, 1e4)))
    assert found.chosen is not None and not found.chosen.capacity.predicted
    assert found.tempting is not None and found.tempting.capacity.engine == TP4
    assert [str(one.plan) for one in found.foretold] == ["tp4"], "tp1 was measured"
    assert any("PREDICTED: tp4 would need less" in line and "not the answer" in line for line in answer_lines(found))
    assert any("were not measured" in line for line in doubts(found))
    text = markdown(Page(found, "here", [], [], ["```\nmeasure\n```"]), [])
    assert "| tp4 | PREDICTED |" in text and "tp4 (PREDICTED)" in text


def test_a_plan_that_was_measured_and_failed_is_not_predicted() -> None:
    assert capacities(carried(loads([closed(TP1, 64)]), HELD), [foretold(TP1, 9.0)]) == []


def test_only_loads_that_do_not_end_count() -> None:
    cases = [batch(TP1, (1.0, 1.0)), planted.replay(TP1, [1.0]), planted.case(TP1, "pinned", 16, [1.0])]
    cases += [planted.case(TP1, "max_num_seqs-8", 16, [1.0]), planted.skipped(TP4, "fixed", 1)]
    other_model = replace(closed(TP1, 1), id="other/tp1/closed/c1")
    oversubscribed = closed(TP2, 1)
    oversubscribed.flags = ["oversubscribed"]
    assert loads([*cases, other_model, oversubscribed]) == []


def test_staggered_answers_do_not_make_requests_cheap() -> None:
    """The first answers of a staggered repeat are short; what is counted is whole ones."""
    case = closed(TP1, 16)
    case.workload = Workload(32, 32, 64, 10240, staggered=16)
    (load,) = loads([case])
    assert load.rate.value == pytest.approx(TP1_RATE / 2, rel=1e-4), "32 tokens per second are half a request of 64"


def test_answers_that_were_cut_short_count_as_no_request(tmp_path: Path) -> None:
    """A third of each answer is no request of the asked length: the load is left out and named."""
    cut = closed(TP2, 16, 3.0)
    for repeat in cut.repeats:
        repeat |= {"token_count_mismatches": 32.0, "total_output_tokens": 32.0 * 8}
    beside = stored(tmp_path, result([closed(TP1, 16), cut]), "20260101T000000Z-beside")
    kept, left_out = given_evidence([beside], fits).loads((None, None))
    named = "tp2/closed/c16: its answers were not as long as was asked for"
    assert [load.plan for load in kept] == [TP1] and left_out == [named]
    alone = stored(tmp_path, result([cut]), "20260101T000001Z-alone")
    assert own_evidence(tmp_path, fits).left_out == [f"{alone.name}: {named}"]
    assert f"{alone.name}: {named}" in given_evidence([tmp_path], fits).left_out
    with pytest.raises(StoreError, match="its answers were not as long"):
        given_evidence([alone], fits)


def test_of_ones_own_results_the_newest_and_what_agrees_with_it_count(tmp_path: Path) -> None:
    old, new = result([closed(TP1, 16)]), result([closed(TP2, 16)])
    stored(tmp_path, old, "20260101T000000Z-a")
    stored(tmp_path, new, "20260102T000000Z-a")
    stored(tmp_path, result([closed(TP1, 4)], engine_settings={"eager": True}), "20260101T000001Z-eager")
    elsewhere = result([closed(TP1, 4)])
    elsewhere.environment["devices"] = [{"index": 0, "name": "OTHER"}]
    stored(tmp_path, elsewhere, "20260101T000002Z-elsewhere")
    unfinished = result([closed(TP1, 4)])
    unfinished.status = "interrupted"
    stored(tmp_path, unfinished, "20260103T000000Z-a")
    stored(tmp_path / "reference" / "x", result([closed(TP1, 1)]), "20260104T000000Z-ref")
    (tmp_path / "benchmark_scaling").mkdir()
    (tmp_path / "benchmark_scaling" / "20260105T000000Z-cut.json").write_text('{"schema_version": 2, ')
    found = own_evidence(tmp_path, fits)
    assert [path.name[:16] for path, _ in found.results] == ["20260102T000000Z", "20260101T000000Z"]
    said = "\n".join(found.left_out)
    for expected in ("engine_settings.eager", "OTHER", "unfinished", "truncated"):
        assert expected in said, said
    kept, _ = found.loads((None, None))
    assert {load.plan for load in kept} == {TP1, TP2}


def test_a_predicted_figure_says_which_load_it_is_for() -> None:
    found = decided(two_plans(), asked(), (foretold(TP4, 30.0),))
    columns = list(foretold_shown(found).columns)
    assert "mean TTFT ms of 1 client" in columns and "requests/s of these clients" in columns
    assert "mean TPOT ms of these clients at the rate counted on" in columns
    assert any("that of 1 client" in line and "at the rate that is counted on" in line for line in doubts(found))


def test_results_of_older_labs_count_or_are_called_so(tmp_path: Path) -> None:
    """A setting that an older lab did not name was what it always was there; of others nobody knows."""
    older = result([closed(TP1, 4)])
    older.config["engine_settings"] = {"eager": True}
    newest = result([closed(TP2, 4)])
    newest.config["engine_settings"] = {"eager": True, "peer_to_peer": True}
    paths = [stored(tmp_path, older, "20260101T000000Z-a"), stored(tmp_path, newest, "20260102T000000Z-b")]
    found = given_evidence(paths, fits)
    assert len(found.results) == 2 and found.left_out == []
    newest.config["engine_settings"]["made_up"] = 7
    stored(tmp_path, newest, "20260102T000000Z-b")
    assert given_evidence(paths, fits).left_out == [
        "20260101T000000Z-a.json: it does not say engine_settings.made_up, which is 7 in the newest result: another"
        " version of the lab measured it; measure again to count both"
    ]


def test_the_committed_results_speak_of_one_engine() -> None:
    folder = RESULTS / "reference" / "2x1core-amd-epyc"
    assert given_evidence([folder], fits).left_out == []


def test_given_results_are_of_one_machine_and_model(tmp_path: Path) -> None:
    here = stored(tmp_path, result([closed(TP1, 16)]), "20260101T000000Z-a")
    elsewhere = result([closed(TP1, 4)])
    elsewhere.environment["devices"] = [{"index": 0, "name": "OTHER"}]
    there = stored(tmp_path, elsewhere, "20260101T000002Z-b")
    other = stored(tmp_path, result([closed(TP1, 4)], model="another"), "20260101T000003Z-c")
    with pytest.raises(StoreError, match="results of 2 machines"):
        given_evidence([here, there], fits)
    with pytest.raises(StoreError, match="results of 2 models"):
        given_evidence([here, other], fits)
    with pytest.raises(StoreError, match="results of 2 machines"):
        given_evidence([tmp_path], fits)


def test_what_cannot_be_read_is_named(tmp_path: Path) -> None:
    whole = stored(tmp_path, result([closed(TP1, 16)]))
    cut = tmp_path / "20260101T000000Z-cut.json"
    cut.write_bytes(whole.read_bytes()[:200])
    for place, said in (
        (cut, "truncated"),
        (tmp_path / "gone.json", "cannot read"),
        (tmp_path / "empty", "cannot read"),
    ):
        with pytest.raises(StoreError, match=said):
            given_evidence([place], fits)
    (tmp_path / "none").mkdir()
    with pytest.raises(StoreError, match="nothing under"):
        given_evidence([tmp_path / "none"], fits)
    with pytest.raises(StoreError, match="nothing under"):
        given_evidence([stored(tmp_path, result([batch(TP1, (1.0, 1.0))]), "20260101T000000Z-batch")], fits)
    broken = result([closed(TP1, 16)])
    broken.cases[0].repeats[0]["output_throughput"] = -1.0
    with pytest.raises(StoreError, match="holds numbers"):
        given_evidence([stored(tmp_path, broken, "20260101T000000Z-negative")], fits)


def test_rates_of_other_requests_are_left_out(tmp_path: Path) -> None:
    longer = closed(TP1, 4)
    longer.id, longer.workload = "tp1/fixed/c4", Workload(8, 512, 128, 10240)
    evidence = given_evidence([stored(tmp_path, result([*two_plans(), longer]))], fits)
    kept, left_out = evidence.loads((None, None))
    assert len(kept) == 8 and left_out == ["loads of 512 tokens in, 128 out"]
    kept, left_out = evidence.loads((512, None))
    assert [load.case.id for load in kept] == ["tp1/fixed/c4"] and left_out == ["loads of 32 tokens in, 32 out"]
    assert evidence.loads((7, 7))[0] == []


def test_the_page_has_figures_and_loads_nothing(tmp_path: Path) -> None:
    found = decided(two_plans(), asked(20.0, usd_per_hour=2.0, buy_usd=9e3, months=36.0), (foretold(TP4, 30.0),))
    page = Page(found, "Measured: here", ["x.json"], ["y.json: it is of another model"], ["Measure that."])
    paths = write_page(page, tmp_path)
    assert [path.name for path in paths] == ["decision.html", "decision.md", "cost.png", "within.png"]
    html = paths[0].read_text()
    assert html.count("data:image/png;base64,") == 2 and "<table>" in html
    assert "http" not in html.partition("<body>")[2]
    text = paths[1].read_text()
    for said in ("## The answer", "Left out: y.json", "## What would change the answer", "Measure that.", "`x.json`"):
        assert said in text
    assert "rented, $ a month" in text and "bought, $ a month" in text and str(tmp_path) not in text
    unpriced = markdown(replace(page, decision=decided(two_plans())), [])
    assert "$" not in unpriced.replace("--buy-usd", ""), "no price is named where none is known"


def test_bought_and_rented_are_held_against_each_other() -> None:
    found = decided(two_plans(), asked(usd_per_hour=1.0, buy_usd=7_300.0, months=20.0, watts=500.0, usd_per_kwh=0.2))
    said = " ".join([*answer_lines(found), *changes(found)])
    assert "Bought: $876 a month, written off over 20 months ($14,600 at once), $146 of it electricity" in said
    assert "buying pays after 11.1 months" in said, "7,300 / (730 - 73)"
    assert "renting is cheaper than buying below $0.6 an hour" in said
