"""Every difference is found, belongs to one factor, and nothing that does not matter is one."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest

from common.analysis.comparison.differences import Difference, differences, paired
from common.core.arrivals import ClosedLoop, OpenLoop
from common.core.workload import RecordedWorkload, Workload
from common.store.files import load
from common.store.schema import Result
from tests.analysis.pairs import side
from tests.analysis.planted import TP1, case
from tests.store.sample import sample_result

Change = Callable[[Result], None]


def put(place: str, value: Any) -> Change:  # noqa: ANN401
    """Puts a value at a place of a result, written as `environment devices 0 name`."""
    *steps, last = place.split()

    def change(made: Result) -> None:
        holder: Any = made
        for step in steps:
            holder = holder[int(step)] if isinstance(holder, list) else _inside(holder, step)
        if isinstance(holder, dict):
            holder[last] = value
        else:
            setattr(holder, last, value)

    return change


def _inside(holder: Any, step: str) -> Any:  # noqa: ANN401
    return holder[step] if isinstance(holder, dict) else getattr(holder, step)


def changed(*changes: Change) -> list[Difference]:
    a, b = side(), side()
    for change in changes:
        change(b)
    return differences(a, b)


def fewer_devices(made: Result) -> None:
    made.environment["devices"] = made.environment["devices"][:1]
    made.environment["links"] = []


MATTERS: list[tuple[Change, str, str, Any, Any]] = [
    (fewer_devices, "machine", "devices", "2 x A GPU", "1 x A GPU"),
    (put("environment devices 1 uuid", "GPU-9"), "machine", "devices.uuid", None, None),
    (put("environment devices 0 memory_bytes", 40 << 30), "machine", "devices.memory_bytes", None, None),
    (put("environment links 0 p2p", False), "machine", "links.p2p", [True], [False]),
    (put("environment cpu model", "B CPU"), "machine", "cpu.model", "A CPU", "B CPU"),
    (put("environment nvidia driver", "570.1"), "machine", "nvidia.driver", "580.65", "570.1"),
    (put("environment nvidia gpus 0 power_limit_w", 300.0), "machine", "nvidia.gpus.power_limit_w", None, None),
    (put("environment container_limits cpus", 4.0), "machine", "container_limits.cpus", None, 4.0),
    (put("environment kernel", "Linux 6.2"), "machine", "kernel", "Linux 6.1 x86_64", "Linux 6.2"),
    (put("environment memory_bytes", 1 << 30), "machine", "memory_bytes", 256 << 30, 1 << 30),
    (put("environment shared_memory total_bytes", 1), "machine", "shared_memory.total_bytes", 16 << 30, 1),
    (put("cases 0 flags", ["oversubscribed"]), "machine", "flag oversubscribed", False, True),
    (put("environment versions vllm", "0.31.0"), "vllm", "versions.vllm", "0.32.0", "0.31.0"),
    (put("environment versions torch", "2.12"), "vllm", "versions.torch", "2.13.0+cu130", "2.12"),
    (put("environment python", "3.12.1"), "vllm", "python", "3.11.7", "3.12.1"),
    (put("cases 0 engine version", "0.31.0"), "vllm", "engine.version", "0.32.0", "0.31.0"),
    (put("config model", "other"), "model", "model", "qwen2-9m", "other"),
    (put("config model_shape hidden_size", 1), "model", "model_shape.hidden_size", 256, 1),
    (put("config engine_settings max_num_seqs", 8), "settings", "engine_settings.max_num_seqs", 256, 8),
    (put("config engine_settings offline", True), "settings", "engine_settings.offline", None, True),
    (
        put("config engine_settings extra_args", ["-x"]),
        "settings",
        "engine_settings.extra_args",
        [],
        ["-x"],
    ),
    (put("cases 1 engine settings block_size", 32), "settings", "engine.settings.block_size", 16, 32),
    (put("config preset", "lab"), "settings", "option preset", "smoke", "lab"),
    (put("config seed", 7), "settings", "option seed", 0, 7),
    (put("config new_option", True), "settings", "option new_option", None, True),
    (put("environment settings NCCL_P2P_LEVEL", "SYS"), "settings", "environment.NCCL_P2P_LEVEL", "NVL", "SYS"),
    (
        put("environment settings OMP_NUM_THREADS", "1"),
        "settings",
        "environment.OMP_NUM_THREADS",
        None,
        "1",
    ),
    (put("cases 0 workload", Workload(64, 99, 32, 10240)), "workload", "workload.input_tokens", 64, 99),
    (put("cases 0 arrivals", ClosedLoop(15)), "workload", "arrivals.concurrency", 16, 15),
    (put("cases 0 curve", "weak"), "workload", "curve", "fixed", "weak"),
    (put("method_version", 2), "method", "method_version", 1, 2),
]


@pytest.mark.parametrize(("change", "factor", "name", "a", "b"), MATTERS, ids=[row[2] for row in MATTERS])
def test_a_difference_is_found_and_belongs_to_its_factor(
    change: Change,
    factor: str,
    name: str,
    a: Any,  # noqa: ANN401
    b: Any,  # noqa: ANN401
) -> None:
    (found,) = changed(change)
    assert (found.factor, found.name, found.only_shown) == (factor, name, False)
    if (a, b) != (None, None):
        assert (found.a, found.b) == (a, b)
    assert found.allowed([factor]) and not found.allowed([])
    others = {"machine", "vllm", "model", "settings"} - {factor}
    assert not found.allowed(sorted(others))


SHOWN: list[tuple[Change, str]] = [
    (put("environment ceilings matrix_flops_one", 2e14), "measured ceilings.matrix_flops_one"),
    (put("environment client", {"tokens_per_s": 9e4, "load_average": 3.0}), "measured client.tokens_per_s"),
    (put("environment git_commit", "fff"), "lab.git_commit"),
    (put("environment git_dirty", True), "lab.git_dirty"),
    (put("config tp", ["1", "2"]), "option tp"),
    (put("config concurrency", [16]), "option concurrency"),
    (put("config input_tokens", 64), "option input_tokens"),
    (put("config repeats", 5), "option repeats"),
]


@pytest.mark.parametrize(("change", "name"), SHOWN, ids=[row[1] for row in SHOWN])
def test_what_was_measured_or_chooses_cases_is_only_shown(change: Change, name: str) -> None:
    (found,) = changed(change)
    assert found.name == name
    assert found.only_shown
    assert found.allowed([])


@pytest.mark.parametrize(
    "change",
    [
        put("argv", ["--x"]),
        put("run_id", "20270101T000000Z-m-x"),
        put("resume_key", "another"),
        put("status", "interrupted"),
        put("cost", {"usd_per_hour": 3.0}),
        put("warnings", ["hot"]),
        put("config results_dir", "/x"),
        put("config usd_per_hour", 2.0),
        put("config dry_run", True),
        put("config new_option", False),
        put("config new_option", None),
        put("config engine_settings engine", "x"),
        put("config engine_settings offline", False),  # a setting that the other lab did not have
        put("environment shared_memory free_bytes", 1),
        put("environment memory_bytes", (256 << 30) + 4096),
        put("environment ceilings matrix_flops_one", 1.005e14),
        put("environment ceilings seconds", 9.0),
        put("environment nvidia gpus 0 sm_clock_hz", 1.9e9),
        put("environment nvidia gpus 0 memory_used_bytes", 9),
        put("environment nothing", None),
        put("cases 0 engine startup_s", 99.0),
        put("cases 0 flags", ["failed_requests", "failed_in_start_0"]),
        put("cases 0 monitor", {"cpu": 1.0}),
        put("cases 0 engine", {}),
    ],
)
def test_what_never_matters_is_no_difference(change: Change) -> None:
    assert changed(change) == []


def test_a_result_does_not_differ_from_itself() -> None:
    for made in (side(), sample_result()):
        assert differences(made, copy.deepcopy(made)) == []


def test_the_committed_result_does_not_differ_from_itself() -> None:
    from common.analysis.frames import latest_reference

    made = load(latest_reference())
    assert differences(made, load(latest_reference())) == []


def test_swapped_results_have_the_same_differences_the_other_way_round() -> None:
    a, b = side(), side()
    for change, *_ in MATTERS[1:]:  # the first takes away what others change
        change(b)
    there, back = differences(a, b), differences(b, a)
    assert len(there) > 20
    assert {(one.factor, one.name, str(one.a), str(one.b)) for one in there} == {
        (one.factor, one.name, str(one.b), str(one.a)) for one in back
    }


def test_the_same_difference_in_every_case_is_said_once() -> None:
    changes = [put(f"cases {index} engine settings block_size", 32) for index in (0, 1)]
    (found,) = changed(*changes)
    assert found.cases == ("tp1/fixed/c16", "tp2/fixed/c16")


def test_other_devices_are_one_difference_however_many_there_are() -> None:
    a, b = side(), side()
    b.environment["devices"] = [{"name": "B GPU", "uuid": f"X{index}", "cores": [index]} for index in range(8)]
    assert [one.name for one in differences(a, b)] == ["devices"]
    assert differences(a, b)[0].b == "8 x B GPU"


def test_cases_of_one_only_are_named_and_do_not_refuse() -> None:
    a, b = side(), side()
    a.cases.append(case(TP1, "ladder", 32, [1.0]))
    b.cases.append(case(TP1, "fixed", 1, [1.0]))
    found = {one.name: one for one in differences(a, b)}
    assert found["cases only in A"].a == ["tp1/ladder/c32"]
    assert found["cases only in B"].b == ["tp1/fixed/c1"]
    assert all(one.allowed([]) for one in found.values())
    assert [left.id for left, _ in paired(a, b)] == ["tp1/fixed/c16", "tp2/fixed/c16"]


def test_a_saturated_case_may_find_another_load_but_must_do_as_many_turns() -> None:
    def saturated(streams: int, turns: int) -> Result:
        made = side()
        found = case(TP1, "saturated", streams, [1.0, 2.0])
        found.id, found.workload = "tp1/saturated", Workload(turns * streams, 64, 32, 10240)
        made.cases = [found]
        return made

    (found,) = differences(saturated(32, 2), saturated(64, 2))
    assert (found.name, found.a, found.b, found.only_shown) == ("streams found", 32, 64, True)
    refused = [one for one in differences(saturated(32, 2), saturated(64, 4)) if not one.allowed([])]
    assert [(one.factor, one.name, one.a, one.b) for one in refused] == [("workload", "workload.requests", 2.0, 4.0)]


def test_another_models_vocabulary_is_of_the_model() -> None:
    (found,) = changed(put("cases 0 workload", Workload(64, 64, 32, 5_000)))
    assert (found.factor, found.name) == ("model", "workload.vocab_size")


def test_a_seed_is_a_setting() -> None:
    (found,) = changed(put("cases 0 workload", Workload(64, 64, 32, 10240, seed=3)))
    assert found.factor == "settings"


def test_a_recording_is_the_same_work_for_two_models_though_it_has_other_token_counts() -> None:
    def recorded(model: str, sha256: str, tokens: int) -> Result:
        made = side()
        made.config["model"] = model
        for one in made.cases:
            one.workload = RecordedWorkload("sharegpt", sha256, 64, tokens, 32)
        return made

    assert {one.factor for one in differences(recorded("x", "s", 100), recorded("y", "s", 120))} == {"model"}
    assert {one.factor for one in differences(recorded("x", "s", 100), recorded("x", "s", 120))} == {"workload"}
    assert {one.factor for one in differences(recorded("x", "s", 100), recorded("x", "t", 100))} == {"workload"}


def test_another_kind_of_arrivals_is_another_workload() -> None:
    found = changed(put("cases 0 arrivals", OpenLoop(2.0)))
    assert {one.factor for one in found} == {"workload"}
    assert {"arrivals.kind", "arrivals.rate_per_s"} <= {one.name for one in found}


def test_a_file_with_nothing_recorded_differs_in_everything_that_the_other_has() -> None:
    empty = side(config={}, environment={})
    factors = {one.factor for one in differences(side(), empty) if not one.only_shown}
    assert factors == {"machine", "vllm", "model", "settings"}
    assert differences(empty, empty) == []
