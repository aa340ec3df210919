"""A case whose question is fairness: classes of requests beside each other, each against itself alone."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from common.core.arrivals import Replay
from common.core.fairness import fairness_numbers
from common.core.mix import MixedWorkload, RequestClass, only
from common.core.plan import ParallelPlan
from common.core.recording import Recording
from common.core.workload import Request
from common.engines.failures import EngineError, Failure
from common.experiment.bench import Bench
from common.experiment.roofline import Roofline
from common.experiment.spec import Configuration
from common.store.schema import Case, Check

TOGETHER = ""  # the part of a repeat in which all classes come
WARM_UP_STREAMS = 8
IN_FLIGHT = 16  # an estimate, where requests come faster than they are worked off
CLIENTS = ("p99_lateness_ms", "loop_delay_ms", "loop_lag_p99_ms", "loop_lag_max_ms")  # what a client is judged by
ASKED = {  # a setting that a case changes, as the engine's ranks name it
    "chunked_prefill": "enable_chunked_prefill",
    "max_num_batched_tokens": "max_num_batched_tokens",
    "max_model_len": "max_model_len",
    "long_prefill_token_threshold": "long_prefill_token_threshold",
    "scheduling_policy": "scheduling_policy",
}


@dataclass(frozen=True)
class MixSpec:
    """A case to be: one engine, and repeats that are each one comparison.

    A repeat sends every class alone and all together, on the same engine, with the same times and prompts; the order
    of these parts is turned round with every repeat, so that an engine's drift favours none.
    """

    plan: ParallelPlan
    variant: str
    workload: MixedWorkload
    vocab_size: int
    repeats: int
    flags: tuple[str, ...] = ()
    changed: tuple[tuple[str, Any], ...] = ()  # engine settings that differ from the run's

    @property
    def configuration(self) -> Configuration:
        """The engine it is measured on."""
        return Configuration(self.plan, changed=self.changed)

    @property
    def id(self) -> str:
        """Unique within a run, the same in the run that resumes it."""
        return f"{self.plan}/{self.curve}"

    @property
    def curve(self) -> str:
        """What it is called in a result: `mix-` and its variant."""
        return f"mix-{self.variant}"

    @property
    def streams(self) -> list[int]:
        """None that is known beforehand: requests come by the clock."""
        return []

    @property
    def context_tokens(self) -> int:
        """Tokens of its longest request, prompt and answer."""
        return self.workload.context_tokens

    @property
    def recording(self) -> Recording | None:
        """Its requests are made up."""
        return None

    def unmeasured(self) -> Case:
        """The case before anything is known of it."""
        return Case(self.id, self.plan, self.curve, self.workload, Replay(1.0), flags=list(self.flags))

    def measure(self, bench: Bench, case: Case, ladder: list[Case]) -> None:
        """Add this start's repeats to `case`, once its engine is proven to be the one that was asked for.

        Raises:
            EngineError: the engine is another one, died, or answered nothing.
        """
        check = runs_as_asked(dict(self.changed), case.engine.get("settings", {}))
        case.checks = [check]
        if check.passed is False:
            remedy = "Remove options from --engine-args that change it; the engine's log says what vLLM made of them"
            raise EngineError(Failure("variant_ignored", check.detail, remedy))
        bench.warm_up(case, min(WARM_UP_STREAMS, self.workload.requests), self._warm_up)
        for repeat in range(self.repeats):
            self._repeat(bench, case, repeat)
        bench.judge(case)
        case.checks.append(check)

    def requests(self, seed: int) -> list[Request]:
        """What is sent in one repeat, all classes."""
        return self.workload.reseeded(seed).generate(self.vocab_size)

    def _warm_up(self, requests: int, output_tokens: int, seed: int) -> list[Request]:
        """A request of each class to begin with: an engine's first long prompt takes longer than the next."""
        made = self.requests(seed)
        first = [only(made, one.name)[0] for one in self.workload.classes]
        rest = [request for request in made if request not in first]
        chosen = [*first, *rest][:requests]
        return [
            replace(request, index=index, output_tokens=min(output_tokens, request.output_tokens))
            for index, request in enumerate(chosen)
        ]

    def _repeat(self, bench: Bench, case: Case, repeat: int) -> None:
        """One comparison: its numbers are those of all classes together, and each class's own (`core/fairness.py`)."""
        requests = self.requests(bench.seed_of(repeat))
        names = [one.name for one in self.workload.classes]
        parts = {name: only(requests, name) for name in names} | {TOGETHER: requests}
        order = list(parts) if (bench.start + repeat) % 2 == 0 else list(parts)[::-1]
        found = dict(zip(order, bench.sent(case, [parts[part] for part in order], repeat), strict=True))
        for part in parts:  # the whole last: the case's monitor is then that of all classes together
            bench.keep(case, found[part][0], repeat, f"-alone-{part}" if part else "")
        together, numbers = found[TOGETHER]
        # The client is judged by its worst part: late sends spoil what a class is held against just as much.
        numbers |= {key: max(found[part][1].get(key, 0.0) for part in parts) for key in CLIENTS if key in numbers}
        for name in names:
            numbers |= fairness_numbers(together.records, found[name][0].records, name)
        # A mix is meant to change while it lasts: it has no steady window.
        bench.enter(case, {key: value for key, value in numbers.items() if not key.startswith("steady_")})

    def seconds(self, roofline: Roofline) -> float:
        """How long one start's repeats will take, warm-up included: an estimate."""
        whole_s, classes = self.workload.seconds, self.workload.classes
        # A class alone begins with its own first request
        alone_s = [self._part_s(roofline, [one], whole_s * (one.requests - 1) / (one.requests + 1)) for one in classes]
        return (sum(alone_s) + self._part_s(roofline, classes, whole_s)) * (self.repeats + 0.1)

    def _part_s(self, roofline: Roofline, classes: Sequence[RequestClass], span_s: float) -> float:
        """Until the last request comes and is answered, or, where they come too fast, until all are worked off."""

        def turn_s(one: RequestClass, streams: int) -> float:
            return roofline.turn_s(self.plan, streams, one.input_tokens, one.output_tokens)

        worked_off_s = sum(one.requests * turn_s(one, IN_FLIGHT) / IN_FLIGHT for one in classes)
        return max(span_s + max(turn_s(one, 1) for one in classes), worked_off_s)

    def in_words(self) -> str:
        """Load and lengths, for a person."""
        classes = [
            f"{one.requests} {one.name} ({one.input_tokens} in / {one.output_tokens} out)"
            for one in self.workload.classes
        ]
        return f"{' and '.join(classes)} in {self.workload.seconds:g} s, each alone and together"


def runs_as_asked(changed: Mapping[str, Any], resolved: Mapping[str, Any]) -> Check:
    """Whether an engine has the settings that make its case what it is; undecided where it does not say."""
    asked = {ASKED[name]: value for name, value in changed.items() if name in ASKED}
    wrong = {name: resolved[name] for name, value in asked.items() if name in resolved and resolved[name] != value}
    name = "the engine runs what was asked for"
    if wrong:
        told = ", ".join(f"{name} is {value} and not {asked[name]}" for name, value in wrong.items())
        return Check(name, False, f"vLLM took other settings than it was given: {told}")
    unknown = [setting for setting in asked if setting not in resolved]
    if unknown:
        return Check(name, None, f"the engine does not say its {', '.join(unknown)}")
    return Check(name, True, ", ".join(f"{setting} {value}" for setting, value in asked.items()))
