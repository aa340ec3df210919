"""A case whose question is whether a plan works: it answers, it splits the weights, it writes what the base writes."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from common.analysis.verification.judgement import (
    EXPECTED_WEIGHTS,
    LIKE_BASE,
    LIKE_SERVED,
    LOAD_REPORT,
    OFFLINE,
    SERVED,
    WEIGHT_SHARE,
    inference_check,
    merged,
    output_check,
    verdict_of,
    weights_check,
)
from common.core.arrivals import ClosedLoop
from common.core.greedy import Answer, Likeness, compare
from common.core.model_shape import DTYPE_BYTES, ModelShape
from common.core.plan import ParallelPlan
from common.core.plural import plural
from common.core.recording import Recording
from common.core.stats import Estimate
from common.core.weight_split import rank_weight_bytes
from common.experiment.answers import no_answer
from common.experiment.bench import Bench
from common.experiment.events import Measuring, Said
from common.experiment.load_spec import Lengths
from common.experiment.roofline import Roofline
from common.experiment.spec import Configuration
from common.load.control import ControlError
from common.load.generation import complete, generate_offline
from common.store.answers import KeptAnswers, answers_path, load_answers, save_answers
from common.store.files import StoreError
from common.store.schema import Case, Check

LISTED = 5  # log-probabilities per token: as many as vLLM's own tests compare where two engines part


@dataclass(frozen=True)
class VerifySpec:
    """Greedy answers to a few seeded prompts, one after another, so that batching plays no part.

    They are compared with those of `base`, the smallest plan of the run, served; `offline` asks the `LLM(...)` API,
    and compares with the served engine of the same plan too. Every start sends the same prompts.
    """

    plan: ParallelPlan
    base: ParallelPlan
    offline: bool
    shape: ModelShape
    lengths: Lengths
    prompts: int
    flags: tuple[str, ...] = ()
    changed: tuple[tuple[str, Any], ...] = ()  # engine settings that differ from the run's, `offline` left out
    repeats: int = 1

    @property
    def configuration(self) -> Configuration:
        """The engine it is measured on; a served one may be another case's too."""
        return Configuration(self.plan, changed=(*self.changed, *((("offline", True),) if self.offline else ())))

    @property
    def id(self) -> str:
        """Unique within a run, the same in the run that resumes it."""
        return _id_of(self.plan, self.offline)

    @property
    def streams(self) -> list[int]:
        """One request at a time."""
        return [1]

    @property
    def context_tokens(self) -> int:
        """Tokens of a request, prompt and answer."""
        return self.lengths.input_tokens + self.lengths.output_tokens

    @property
    def recording(self) -> Recording | None:
        """Its prompts are made up."""
        return None

    def unmeasured(self) -> Case:
        """The case before anything is known of it."""
        curve = OFFLINE if self.offline else SERVED
        case = Case(self.id, self.plan, curve, self.lengths.described(self.prompts), ClosedLoop(1))
        case.flags = list(self.flags)
        return case

    def measure(self, bench: Bench, case: Case, ladder: list[Case]) -> None:
        """Ask every prompt once, keep the answers, and check them.

        Raises:
            EngineError: the engine died, or answered nothing.
        """
        requests = self.lengths.generate(self.prompts, bench.seed)
        prompts = [[int(token) for token in request.prompt] for request in requests]
        began = time.perf_counter()
        answers = self._ask(bench, case, prompts)
        seconds = time.perf_counter() - began
        facts = bench.engine.facts
        kept = KeptAnswers(case.id, facts.weight_bytes_per_rank, answers)
        save_answers(kept, answers_path(bench.requests_folder, case.id, bench.start))
        numbers = {"start": bench.start, "repeat": 0, "duration": seconds, "completed": len(answers)}
        numbers["total_output_tokens"] = sum(len(answer.token_ids) for answer in answers)
        checks = [inference_check([len(answer.token_ids) for answer in answers], self.lengths.output_tokens)]
        checks += self._weights(bench, case)
        for name, other in self._compared_with(bench):
            check, likeness = self._likeness(bench, answers, name, other)
            checks.append(check)
            numbers |= _numbers(name, likeness)
        if self._is_the_reference(bench) and self.plan.tp > 1:
            checks.append(Check(LIKE_BASE, None, f"{self.plan} is the smallest size: there is nothing to compare with"))
        case.repeats.append(numbers)
        case.checks = merged([*case.checks, *checks])
        finding = verdict_of(case)
        bench.watch(Said(f"{case.id}: {finding.word}{': ' if finding.reason else ''}{finding.reason}"))

    def _ask(self, bench: Bench, case: Case, prompts: Sequence[Sequence[int]]) -> list[Answer]:
        endpoint, tokens = bench.engine.endpoints[0], self.lengths.output_tokens
        answers: list[Answer] = []
        began = time.perf_counter()
        for prompt in prompts:
            try:
                if self.offline:
                    batch = asyncio.run(generate_offline(endpoint, [prompt], tokens, LISTED))
                    answers += batch.answers
                else:
                    answers.append(asyncio.run(complete(endpoint, prompt, tokens, LISTED)))
            except ControlError as error:
                raise no_answer(error, bench.engine) from error
            rate = len(answers) * tokens / (time.perf_counter() - began)
            bench.watch(Measuring(case.id, "greedy answers", len(answers), len(prompts), rate))
        return answers

    def _weights(self, bench: Bench, case: Case) -> list[Check]:
        """Against the base's own bytes where it is a TP=1, else against what the model's shape says."""
        facts = bench.engine.facts
        width = DTYPE_BYTES.get(str(facts.settings.get("dtype")), self.shape.dtype_bytes)
        whole = self._whole_bytes(bench)
        expected = rank_weight_bytes(self.shape, self.plan.tp, width, whole)
        percent = 100 / (whole or rank_weight_bytes(self.shape, 1, width))
        case.predicted = [Estimate(EXPECTED_WEIGHTS, "B", expected), Estimate(WEIGHT_SHARE, "%", expected * percent)]
        if held := facts.weight_bytes_per_rank or facts.load_report_bytes_per_rank:
            case.summary = [Estimate(WEIGHT_SHARE, "%", max(held) * percent)]
        checks = [weights_check(self.plan, facts.weight_bytes_per_rank, expected, whole)]
        report = facts.load_report_bytes_per_rank
        if report and not facts.weight_bytes_per_rank:
            checks = [weights_check(self.plan, report, expected, whole, LOAD_REPORT)]
        elif report:
            checks.append(weights_check(self.plan, report, expected, whole, LOAD_REPORT))
        return checks

    def _whole_bytes(self, bench: Bench) -> int | None:
        """What TP=1 really held; a TP=1 itself is held against the shape."""
        if self.base.tp != 1 or self.plan.tp == 1:
            return None
        try:
            held = load_answers(answers_path(bench.requests_folder, _id_of(self.base, False), 0)).weight_bytes_per_rank
        except StoreError:
            return None
        return max(held, default=None)

    def _compared_with(self, bench: Bench) -> list[tuple[str, ParallelPlan]]:
        """Names of checks and the served plans whose first start's answers they look at."""
        base = [] if self._is_the_reference(bench) else [(LIKE_BASE, self.base)]
        return base + ([(LIKE_SERVED, self.plan)] if self.offline and self.plan != self.base else [])

    def _is_the_reference(self, bench: Bench) -> bool:
        return self.plan == self.base and not self.offline and bench.start == 0

    def _likeness(
        self, bench: Bench, answers: Sequence[Answer], name: str, other: ParallelPlan
    ) -> tuple[Check, Likeness | None]:
        try:
            kept = load_answers(answers_path(bench.requests_folder, _id_of(other, False), 0))
            likeness = compare(kept.answers, answers)
        except (StoreError, ValueError) as error:
            return Check(name, None, f"{other}'s answers are missing: {error}"), None
        dtype = str(bench.engine.facts.settings.get("dtype", "unknown"))
        check = output_check(name, f"{other} served", likeness, dtype)
        if name == LIKE_BASE and check.passed and self.base.tp > 1:
            check = replace(check, passed=None, detail=f"{check.detail}; {other} is itself split")
        return check, likeness

    def seconds(self, roofline: Roofline) -> float:
        """How long one start's answers will take: an estimate."""
        lengths = self.lengths
        return self.prompts * roofline.turn_s(self.plan, 1, lengths.input_tokens, lengths.output_tokens)

    def in_words(self) -> str:
        """Load and lengths, for a person."""
        way = "offline LLM(...)" if self.offline else "vllm serve"
        lengths = f"{self.lengths.input_tokens} in / {self.lengths.output_tokens} out"
        return f"{way}, {plural(self.prompts, 'prompt')} one by one, {lengths}"


def _id_of(plan: ParallelPlan, offline: bool) -> str:
    return f"{plan}/verify/{'offline' if offline else 'served'}"


def _numbers(name: str, likeness: Likeness | None) -> dict[str, float]:
    """What is comparable between runs, flat; absent where nothing parted."""
    if likeness is None:
        return {}
    against = "base" if name == LIKE_BASE else "served"
    numbers = {
        f"identical_to_{against}": likeness.identical,
        f"distinct_tokens_of_{against}": likeness.distinct_tokens,
        f"first_divergence_from_{against}": likeness.first_divergence,
        f"gap_to_{against}_nats": likeness.gap_nats,
        f"unlisted_by_{against}": likeness.unlisted,
        f"noise_to_{against}_nats": likeness.noise_nats,
    }
    return {key: value for key, value in numbers.items() if value is not None}
