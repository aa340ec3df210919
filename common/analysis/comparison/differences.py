"""What differs between two results, and which factor each difference belongs to: nothing here is measured or judged."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any, Literal

from common.analysis.wording import machine
from common.core.arrivals import ClosedLoop
from common.core.workload import RecordedWorkload
from common.store.schema import Case, Result

Factor = Literal["machine", "vllm", "model", "settings", "workload", "method"]
Named = Literal["machine", "vllm", "model", "settings"]  # factors that two runs may be meant to differ in

OF_THE_MACHINE = ("oversubscribed", "host_shares_devices")  # flags; the others tell how a case went
# What they decide is compared itself (devices, cases, their workloads) or is in the interval (repeats)
CHOICES = (
    *("tp", "concurrency", "curves", "replicas", "oversubscribe", "turns", "input_tokens", "output_tokens"),
    *("cores_per_device", "device_ids", "repeats", "workload", "time_scale"),
)
# Not about the work, or recorded a second time under engine_settings
NOT_COMPARED = ("results_dir", "resume", "dry_run", "usd_per_hour", "engine_args", "engine_python")
# Settings that results of older labs do not name, and what they were there all the same
BEFORE_NAMED: dict[str, Any] = {"peer_to_peer": True}
CEILINGS = ("matrix_flops_one", "matrix_flops_all", "memory_bytes_per_s_one", "memory_bytes_per_s_all")
TOLERANCE = 0.01  # of ceilings, and of a machine's memory, which changes a little from boot to boot


@dataclass(frozen=True)
class Difference:
    """One thing that is not the same in both; `a` or `b` is None where it is unknown.

    `cases` are those it was found in, empty for the whole run. `only_shown`: it makes no ratio wrong, because it was
    measured, or because it decides only which cases there are.
    """

    factor: Factor
    name: str
    a: Any
    b: Any
    cases: tuple[str, ...] = ()
    only_shown: bool = False

    def allowed(self, factors: Sequence[str]) -> bool:
        """Whether two runs that are meant to differ in `factors` may be compared in spite of it."""
        return self.only_shown or self.factor in factors


def differences(a: Result, b: Result) -> list[Difference]:
    """Every difference between two runs of one experiment, by factor; empty for a result and itself.

    Times, prices, names of runs and folders are no differences.
    """
    found = [*_environment(a, b), *_config(a, b), *_cases(a, b)]
    if a.method_version != b.method_version:
        found.append(Difference("method", "method_version", a.method_version, b.method_version))
    order = ("method", "machine", "vllm", "model", "settings", "workload")
    return sorted(_merged(found), key=lambda difference: (order.index(difference.factor), difference.only_shown))


def paired(a: Result, b: Result) -> list[tuple[Case, Case]]:
    """Cases of both results by their ids, in the order of `a`."""
    others = {case.id: case for case in b.cases}
    return [(case, others[case.id]) for case in a.cases if case.id in others]


def _environment(a: Result, b: Result) -> Iterator[Difference]:
    for name, left, right in _unequal("", _described(a), _described(b)):
        part = name.partition(".")[0]
        if part in ("devices", "links") and part != name and machine(a) != machine(b):
            continue  # another number or kind of devices: what they are says all
        if part in ("git_commit", "git_dirty"):  # `method_version` says whether the method is the same
            yield Difference("method", f"lab.{name}", left, right, only_shown=True)
        elif part in ("ceilings", "client"):  # what a machine reached is no setting of it
            yield Difference("machine", f"measured {name}", left, right, only_shown=True)
        elif part in ("python", "versions"):
            yield Difference("vllm", name, left, right)
        elif part == "settings":
            yield Difference("settings", f"environment.{name.partition('.')[2]}", left, right)
        else:
            yield Difference("machine", name, left, right)


def _described(result: Result) -> dict[str, Any]:
    """The environment without what changes from one second to the next."""
    found = dict(result.environment)
    found["devices"] = {"": machine(result)} | _columns(found.get("devices"), ("name", "index", "kind"))
    found["links"] = _columns(found.get("links"), ())
    if isinstance(found.get("nvidia"), dict):
        momentary = ("index", "name", "uuid", "memory_bytes", "memory_used_bytes", "sm_clock_hz", "memory_clock_hz")
        found["nvidia"] = found["nvidia"] | {"gpus": _columns(found["nvidia"].get("gpus"), momentary)}
    if isinstance(found.get("shared_memory"), dict):
        found["shared_memory"] = {"total_bytes": found["shared_memory"].get("total_bytes")}
    if isinstance(found.get("ceilings"), dict):
        found["ceilings"] = {name: found["ceilings"].get(name) for name in CEILINGS}
    if isinstance(found.get("client"), dict):
        found["client"] = {name: value for name, value in found["client"].items() if name != "load_average"}
    return found


def _config(a: Result, b: Result) -> Iterator[Difference]:
    for name, left, right in _unequal("", _named(a.config), _named(b.config)):
        part, _, rest = name.partition(".")
        if part in NOT_COMPARED or (part == "engine_settings" and rest in ("model", "engine", "served_name")):
            continue
        if part in ("model", "model_shape"):
            yield Difference("model", name, left, right)
        elif not left and not right:  # a setting that one version of the lab lacks, and that is off in the other
            continue
        elif part == "engine_settings":
            yield Difference("settings", name, left, right)
        else:
            yield Difference("settings", f"option {name}", left, right, only_shown=part in CHOICES)


def _named(config: dict[str, Any]) -> dict[str, Any]:
    """The config with the engine settings that its lab had and did not name."""
    settings = config.get("engine_settings")
    return config | {"engine_settings": BEFORE_NAMED | settings} if isinstance(settings, dict) else config


def _cases(a: Result, b: Result) -> Iterator[Difference]:
    pairs = paired(a, b)
    common = {case.id for case, _ in pairs}
    for only_in, result in (("A", a), ("B", b)):
        if alone := [case.id for case in result.cases if case.id not in common]:
            left, right = (alone, None) if only_in == "A" else (None, alone)
            yield Difference("workload", f"cases only in {only_in}", left, right, only_shown=True)
    same_model = a.config.get("model") == b.config.get("model")
    for case, twin in pairs:
        for difference in _of_a_case(case, twin, same_model):
            yield replace(difference, cases=(case.id,))


def _of_a_case(a: Case, b: Case, same_model: bool) -> Iterator[Difference]:
    for name, left, right in _unequal("", _work(a), _work(b)):
        yield Difference(_factor_of_work(name, a, b, same_model), name, left, right)
    left, right = _load_found(a), _load_found(b)
    if left and right and left != right:
        yield Difference("workload", "streams found", left, right, only_shown=True)
    for flag in OF_THE_MACHINE:
        if (flag in a.flags) != (flag in b.flags):
            yield Difference("machine", f"flag {flag}", flag in a.flags, flag in b.flags)
    if a.engine and b.engine:  # the engine's own words, where it ran
        for name, left, right in _unequal("", _resolved(a), _resolved(b)):
            yield Difference("vllm" if name == "version" else "settings", f"engine.{name}", left, right)


def _resolved(case: Case) -> dict[str, Any]:
    return {name: case.engine.get(name) for name in ("version", "settings")}


def _work(case: Case) -> dict[str, Any]:
    """What a case does; a case that looks for its own load does its turns at whatever load it finds."""
    workload, arrivals = asdict(case.workload), asdict(case.arrivals)
    if found := _load_found(case):
        arrivals.pop("concurrency")
        workload |= {name: workload[name] / found for name in ("requests", "staggered") if name in workload}
    return {
        "plan": str(case.plan),
        "curve": case.curve,
        "workload": workload,
        "arrivals": {"kind": type(case.arrivals).__name__} | arrivals,
    }


def _load_found(case: Case) -> int | None:
    """Streams of a case that looked for its own load; None for the others, which have theirs in their name."""
    if isinstance(case.arrivals, ClosedLoop) and not re.search(r"/c\d+$", case.id):
        return case.arrivals.concurrency
    return None


def _factor_of_work(name: str, a: Case, b: Case, same_model: bool) -> Factor:
    if name == "workload.seed":
        return "settings"
    if name == "workload.vocab_size":  # of the model: prompts are drawn from it
        return "model"
    recorded = isinstance(a.workload, RecordedWorkload) and isinstance(b.workload, RecordedWorkload)
    if recorded and not same_model and name in ("workload.input_tokens", "workload.output_tokens"):
        return "model"  # the same text is another number of tokens to another tokenizer
    return "workload"


def _unequal(name: str, a: Any, b: Any) -> Iterator[tuple[str, Any, Any]]:  # noqa: ANN401  # whatever JSON holds
    """Leaves that differ, by dotted name; absent and None are the same: unknown."""
    if isinstance(a, dict) or isinstance(b, dict):
        left, right = (side if isinstance(side, dict) else {} if side is None else {"": side} for side in (a, b))
        for key in dict.fromkeys([*left, *right]):
            yield from _unequal(f"{name}.{key}".strip("."), left.get(key), right.get(key))
    elif not _alike(name, a, b):
        yield name, a, b


def _alike(name: str, a: Any, b: Any) -> bool:  # noqa: ANN401  # whatever JSON holds
    if isinstance(a, list) and isinstance(b, list):
        return len(a) == len(b) and all(_alike(name, left, right) for left, right in zip(a, b, strict=True))
    if _is_number(a) and _is_number(b):
        loose = name.startswith("ceilings") or name.endswith(("memory_bytes", "total_bytes"))
        return math.isclose(a, b, rel_tol=TOLERANCE if loose else 1e-9)
    return bool(a == b)


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _columns(rows: Any, left_out: Sequence[str]) -> dict[str, Any]:  # noqa: ANN401  # a field of a file
    """A list of alike dicts as a dict of lists: eight devices that differ alike are then one difference."""
    if not isinstance(rows, list) or not all(isinstance(row, dict) for row in rows):
        return {"": rows}
    names = dict.fromkeys(name for row in rows for name in row if name not in left_out)
    return {name: [row.get(name) for row in rows] for name in names}


def _merged(found: Sequence[Difference]) -> list[Difference]:
    """The same difference in several cases once."""
    groups: dict[str, list[Difference]] = {}
    for difference in found:
        alike = json.dumps([difference.factor, difference.name, difference.a, difference.b], default=str)
        groups.setdefault(alike, []).append(difference)
    return [replace(group[0], cases=tuple(id for one in group for id in one.cases)) for group in groups.values()]
