"""The one sweep: start each engine as seldom as possible, measure its cases, save after every one, lose nothing."""

from __future__ import annotations

import contextlib
import copy
import signal
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, field, replace

from common.core.plan import ParallelPlan
from common.core.verdict import ClientCeiling
from common.engines.engine import Engine, StartsEngines
from common.engines.failures import EngineError, Failure
from common.engines.remote import HUNG
from common.engines.settings import EngineSettings
from common.experiment.bench import Bench
from common.experiment.budget import Budget
from common.experiment.events import CaseDone, EngineGone, EngineReady, EngineStarting, Watcher
from common.experiment.spec import Configuration, Spec, order_of_starts
from common.machine.devices import Device, Machine
from common.machine.monitor import Monitor
from common.store import files
from common.store.export import export_for_vllm_plots
from common.store.schema import Case, CaseError, Result

FAILED_IN_START = "failed_in_start_"


@dataclass
class Sweep:
    """Runs cases into a result. `summarise` fills a case's summary from its repeats before each save."""

    launcher: StartsEngines
    machine: Machine
    settings: EngineSettings
    result: Result
    paths: files.ResultPaths
    watch: Watcher
    seed: int = 0
    starts: int = 1
    repeat_base_last: bool = False
    recount: Callable[[str], int] | None = None
    ceiling: ClientCeiling | None = None
    budget: Budget | None = None
    _broken: set[Configuration] = field(default_factory=set)

    def run(self, specs: Sequence[Spec]) -> None:
        """Measure every case that the result does not hold yet.

        Raises:
            KeyboardInterrupt: passed on, once the engine is gone and the result saved as interrupted.
        """
        configurations = list(dict.fromkeys(spec.configuration for spec in specs))
        order = order_of_starts(configurations, self.starts)
        if self.repeat_base_last and order:
            order.append((self.starts, configurations[0]))
        if self.budget is not None:
            todo = [(start, spec) for start, engine in order for spec in specs if spec.configuration == engine]
            self.budget.begin([one for one in todo if not self._is_done(one[1], one[0])], specs)
        try:
            self.save()
            with Monitor(self.machine) as monitor:
                for start, configuration in order:
                    self._run_start(start, [spec for spec in specs if spec.configuration == configuration], monitor)
        except KeyboardInterrupt:
            with _undisturbed():
                self.result.status = "interrupted"
                self.save()
            raise
        self.result.status = "complete"
        self.save()

    def save(self) -> None:
        """Save the result and its export."""
        files.save(self.result, self.paths.json)
        export_for_vllm_plots(self.result, self.paths.bench)

    def _run_start(self, start: int, specs: Sequence[Spec], monitor: Monitor) -> None:
        """One engine start, and another one whenever the engine dies under a case."""
        waiting = [spec for spec in specs if not self._is_done(spec, start)]
        if waiting and not self._affords(start, waiting[0], up=False):
            self._leave_out(start, waiting)
            return
        while waiting and waiting[0].configuration not in self._broken:
            with self._engine(start, waiting) as engine:
                if engine is None:
                    return
                recount = None if waiting[0].configuration.model else self.recount  # it reads the run's own tokens
                bench = Bench(engine, start, self.seed, self.paths.requests, monitor, self.watch, recount, self.ceiling)
                measured: set[str] = set()
                while waiting:
                    spec = waiting.pop(0)
                    if not self._affords(start, spec, up=True):
                        self._leave_out(start, [spec])
                    elif self._measure(spec, bench):
                        measured.add(spec.id)
                    else:
                        break
                else:
                    self._trace(engine, measured)

    @contextlib.contextmanager
    def _engine(self, start: int, specs: Sequence[Spec]) -> Iterator[Engine | None]:
        """The specs' engine, ended and proven gone; None, and failed cases, if it does not start."""
        plan = specs[0].configuration.plan
        self.watch(EngineStarting(plan, start))
        try:
            engine = self.launcher.start(plan, self._devices(plan), self._settings(specs[0]))
        except EngineError as error:
            self._broken.add(specs[0].configuration)
            if self.budget is not None:
                self.budget.broken(specs[0].configuration)
            for spec in specs:
                self._keep(self._failed(self._case(spec, start), start, error))
            yield None
            return
        if self.budget is not None:
            self.budget.started(specs[0].configuration)
        try:
            self.watch(EngineReady(plan, engine.facts.startup_s))
            yield engine
        finally:
            with _undisturbed():
                gone = engine.stop()
                self.watch(EngineGone(plan, gone.clean))
                if not gone.clean:
                    self.result.warnings.append(f"{plan}: something of the engine is left: {asdict(gone)}")

    def _measure(self, spec: Spec, bench: Bench) -> bool:
        """Measure and save one case; False when the engine is dead and a new one is needed.

        The case becomes part of the result only now: what an interruption leaves unfinished is measured again.
        """
        case = self._case(spec, bench.start)
        case.engine = asdict(bench.engine.facts)
        ladder: list[Case] = []
        try:
            spec.measure(bench, case, ladder)
        except EngineError as error:
            self._ended(spec, bench.start)
            self._keep(*ladder, self._failed(case, bench.start, error))
            if error.failure.kind == HUNG:  # so would every other case, each for as long: they are left for another run
                self._broken.add(spec.configuration)
                return False
            return bench.engine.death() is None
        self._ended(spec, bench.start)
        self._keep(*ladder, case)
        return True

    def _trace(self, engine: Engine, ids: set[str]) -> None:
        """What all-reduces take under load, for the cases measured on this engine; they stand without it too."""
        with contextlib.suppress(EngineError):
            if ids and (traced := engine.trace_all_reduces()):
                for case in self.result.cases:
                    if case.id in ids and case.engine:
                        case.engine["all_reduce_traced"] = asdict(traced)
                self.save()

    def _affords(self, start: int, spec: Spec, up: bool) -> bool:
        """Whether there is time for a case, on an engine that is up or has yet to start."""
        todo = (start, spec)
        return self.budget is None or self.budget.affords(todo, running=todo if up else None)

    def _ended(self, spec: Spec, start: int) -> None:
        if self.budget is not None:
            self.budget.ended((start, spec), measured=True)

    def _leave_out(self, start: int, specs: Sequence[Spec]) -> None:
        """No time is left: what was never measured is skipped, what was is not repeated."""
        assert self.budget is not None
        for spec in specs:
            self.budget.ended((start, spec), measured=False)
            case = self._case(spec, start)
            if not case.repeats:
                case.status, case.error = "skipped", self.budget.spent
                self._keep(case)

    def _case(self, spec: Spec, start: int) -> Case:
        """A copy of the case as it stands, without what this start had measured or how it had failed."""
        for known in self.result.cases:
            if known.id == spec.id:
                case = copy.deepcopy(known)
                case.repeats = [repeat for repeat in case.repeats if repeat["start"] != start]
                case.flags = [flag for flag in case.flags if flag != _failed_flag(start)]
                if not any(flag.startswith(FAILED_IN_START) for flag in case.flags):
                    case.status, case.error = "ok", None
                return case
        return spec.unmeasured()

    def _is_done(self, spec: Spec, start: int) -> bool:
        for case in self.result.cases:
            if case.id == spec.id:
                measured = sum(repeat["start"] == start for repeat in case.repeats)
                failed = _failed_flag(start) in case.flags
                return case.status == "skipped" or (not failed and measured >= spec.repeats)
        return False

    def _failed(self, case: Case, start: int, error: EngineError) -> Case:
        """Mark a case as failed; it stays so even if a later start goes well."""
        failure = error.failure
        case.status, case.error = "failed", CaseError(failure.kind, failure.message, failure.advice)
        case.flags.append(_failed_flag(start))
        return case

    def _keep(self, *cases: Case) -> None:
        """Put cases into the result, each in the place of its former self, and save."""
        for case in cases:
            places = [place for place, known in enumerate(self.result.cases) if known.id == case.id]
            if places:
                self.result.cases[places[0]] = case
            else:
                self.result.cases.append(case)
        self.save()
        self.watch(CaseDone(cases[-1]))

    def _settings(self, spec: Spec) -> EngineSettings:
        """What the case's engine is started with; `kv_like` needs that plan's engine to have told its KV blocks.

        Raises:
            EngineError: it has not.
        """
        configuration = spec.configuration
        settings, like = configuration.settings(self.settings), configuration.kv_like
        if like is None:
            return settings
        for case in self.result.cases:
            tokens, block = case.engine.get("kv_cache_tokens"), case.engine.get("settings", {}).get("block_size")
            if case.plan == like and case.model is None and tokens and block:
                return replace(settings, num_gpu_blocks=int(tokens) // (int(block) * case.plan.replicas * case.plan.dp))
        message = f"the KV cache of {like} is unknown, so it cannot be given to {configuration.plan}"
        raise EngineError(Failure("no_base", message, f"Measure {like} in the same run"))

    def _devices(self, plan: ParallelPlan) -> list[Device]:
        """The plan's devices; more ranks than devices share them in turn (`oversubscribed`)."""
        offered = len(self.machine.devices)
        if plan.devices <= offered:
            return list(self.machine.pick(plan.devices))
        return [self.machine.devices[rank % offered] for rank in range(plan.devices)]


def _failed_flag(start: int) -> str:
    return f"{FAILED_IN_START}{start}"


@contextlib.contextmanager
def _undisturbed() -> Iterator[None]:
    """Let a second Ctrl-C wait for the seconds that cleaning up takes."""
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)
