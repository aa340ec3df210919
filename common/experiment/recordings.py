"""`--workload`: the user's own requests, read once and given to cases."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from common.core.arrivals import Replay
from common.core.plural import plural
from common.core.recording import Recording
from common.engines.models import Model, token_counter
from common.engines.settings import parse_engine_args
from common.experiment.load_spec import Lengths, LoadSpec
from common.experiment.options import STARTS, InputError, Options, Preset
from common.experiment.preflight import context_tokens
from common.experiment.spec import Spec
from common.load.workload_file import read_workload
from common.load.workload_forms import Limits
from common.machine.devices import Machine

FEWEST_REPLAYED = 4


@dataclass(frozen=True)
class ReplayAmount:
    """The most of a trace that one repeat sends: requests, and seconds from the first to the last."""

    requests: int
    seconds: float


REPLAYS: dict[Preset, ReplayAmount] = {
    "smoke": ReplayAmount(16, 15.0),
    "lab": ReplayAmount(256, 60.0),
    "full": ReplayAmount(1024, 120.0),
}


@dataclass(frozen=True)
class Recorded:
    """A recording as cases use it: all of it in closed loops, its beginning in a replay (None: there is none)."""

    whole: Recording
    replayed: Recording | None = None

    def given_to(self, spec: LoadSpec) -> LoadSpec:
        """The case with recorded requests; a replay sends each of its own once."""
        used = self.replayed if isinstance(spec.load, Replay) else self.whole
        assert used is not None, "a replay is listed only where there is one"
        lengths = Lengths(used.input_tokens, used.output_tokens, used.vocab_size)
        turns = len(used.entries) if isinstance(spec.load, Replay) else spec.turns
        return replace(spec, recording=used, lengths=lengths, turns=turns)


def read_recorded(
    options: Options, model: Model, machine: Machine, lengths: Lengths, specs: Sequence[LoadSpec]
) -> Recorded:
    """As many requests of `--workload` as these cases, and a replay of a trace, can use.

    Args:
        options: with a workload.
        model: whose tokenizer counts, and whose context limits.
        machine: for the context that the lab gives engines on it.
        lengths: what cases send without a file; a prompt that does not say how many tokens it wants gets as many.
        specs: the closed loops.

    Raises:
        ValueError: one line, with the remedy (`InputError`, `WorkloadError`, `ModelError`).
    """
    assert options.workload is not None
    in_repeat = [spec.turns * max(spec.streams) for spec in specs]
    in_start = [requests * spec.repeats for requests, spec in zip(in_repeat, specs, strict=True)]
    limits = Limits(
        wanted=max([REPLAYS[options.preset].requests + 1, *(STARTS[options.preset] * sent for sent in in_start)]),
        context_tokens=context_tokens(model.shape, machine, parse_engine_args(options.engine_args)),
        vocab_size=model.shape.vocab_size,
        output_tokens=lengths.output_tokens,
        count=token_counter(model),
    )
    whole = read_workload(options.workload.expanduser(), limits)
    if options.time_scale is not None and not whole.timed:
        raise InputError("--time-scale stretches a trace's times, and this workload has none: leave it out")
    needed = max(in_start if whole.verbatim else in_repeat, default=0)
    if (have := len(whole.entries)) < needed:
        sent = "a case sends under one engine start" if whole.verbatim else "a repeat sends"
        note = f"The workload's {plural(have, 'request')} are fewer than the {needed} that {sent}: some are sent again."
        whole = replace(whole, notes=(*whole.notes, note))
    return Recorded(whole, _beginning(whole, options) if whole.timed else None)


def used_by(specs: Sequence[Spec]) -> Recording | None:
    """What was read of `--workload`: the longest part that a case uses."""
    found = [spec.recording for spec in specs if spec.recording is not None]
    return max(found, key=lambda recording: len(recording.entries), default=None)


def about(recording: Recording) -> dict[str, Any]:
    """What a result says of the file beside its cases: not where it lies, and nothing of what stands in it."""
    lengths = {"input_tokens": recording.input_tokens, "output_tokens": recording.output_tokens}
    about = {"form": recording.form, "sha256": recording.sha256, "requests": len(recording.entries)}
    return about | lengths | {"left_out": dict(recording.left_out)}


def notes(specs: Sequence[Spec]) -> list[str]:
    """What must be said of the recordings, each thing once."""
    return list(dict.fromkeys(note for spec in specs if spec.recording for note in spec.recording.notes))


def _beginning(whole: Recording, options: Options) -> Recording:
    """What a preset replays of a trace.

    Raises:
        InputError: next to nothing, because the trace is slow.
    """
    amount, scale = REPLAYS[options.preset], options.time_scale or 1.0
    part = whole.beginning(amount.requests, amount.seconds / scale)
    sent, have = len(part.entries), len(whole.entries)
    if sent < min(FEWEST_REPLAYED, have):
        last_s = whole.entries[min(FEWEST_REPLAYED, have) - 1].at_s or 0.0
        raise InputError(
            f"the trace has {sent} of its requests in the first {amount.seconds:g} s, which is what --preset"
            f" {options.preset} replays: send it faster, with --time-scale {_rounded_down(amount.seconds / last_s)}"
        )
    if sent < have:
        span = f"{scale * part.span_s:.3g} s"
        first = plural(sent, "request")
        note = f"The replay is the trace's first {first}, {span} (--preset {options.preset} takes no more)."
        part = replace(part, notes=(*part.notes, note))
    return part


def _rounded_down(value: float) -> str:
    """With two digits, and not above the value."""
    text = f"{value:.2g}"
    return text if float(text) <= value else f"{value * 0.95:.2g}"
