"""The command line that every experiment shares, and how a wrong one is answered: one line, a remedy, exit 2."""

from __future__ import annotations

import contextlib
import io
import re
import sys
import textwrap
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from itertools import pairwise
from pathlib import Path
from typing import Annotated, Any, Literal, Protocol, TypeVar

import tyro

from common.machine.command_line import Count, Number, Text, one_line, optional, with_whole_lines
from common.machine.folders import ROOT, WEEK, from_here, typed

Preset = Literal["smoke", "lab", "full"]
STARTS: dict[Preset, int] = {"smoke": 1, "lab": 3, "full": 5}
RESULTS = ROOT / "results"
DEFAULT_TP = (1, 2, 4)

MOST_STREAMS = 16_384  # of one client
MOST_REPEATS = 1_000  # of a case: at seconds each that is hours
MOST_REQUESTS = 1_000_000  # of a repeat: all of its prompts are made before the clock starts
PATHS = ("--results-dir", "--engine-python", "--workload")  # empty, each would mean the current folder
FAILED, BAD_INPUT, INTERRUPTED = 1, 2, 130  # exit codes; 0: all cases ok or skipped


class InputError(ValueError):
    """The run cannot begin; the message is one line and ends with the remedy."""


@dataclass(frozen=True)
class Options:
    """The options of every experiment."""

    model: Text = None
    """Model: a Hugging Face id, a folder, or a reference model (qwen2-126m, qwen2-9m, qwen3-moe-16m). By default
    qwen2-126m on CPU, Qwen/Qwen2.5-7B-Instruct on 1-4 GPUs, Qwen/Qwen3-8B on 8."""
    tp: Annotated[tuple[str, ...] | None, optional("INT [INT ...]")] = None
    """Tensor-parallel sizes to measure; by default 1 2 4, or what the protocol above takes of them. Those that need
    more devices than there are become skipped rows."""
    preset: Preset = "smoke"
    """smoke: minutes, one engine start per plan. lab: three starts, plans interleaved, intervals between starts.
    full: five starts and longer repeats."""
    repeats: Count = None
    """Repeats of each case inside one engine start; the preset's number by default."""
    seed: int = 0
    """Seed of the workloads: the same seed sends the same prompts."""
    results_dir: Path = RESULTS
    """Where results go; made if missing."""
    resume: bool = True
    """Go on with an interrupted run of the same settings on the same machine; --no-resume starts afresh."""
    dry_run: bool = False
    """Print the cases, engine starts, minutes and dollars, and start nothing."""
    cores_per_device: Count = None
    """On CPUs: physical cores of one device; by default as many devices of 1, 2, 4 as fit."""
    device_ids: Annotated[tuple[int, ...] | None, optional("INT [INT ...]")] = None
    """Devices to use, by index; by default the best-linked ones."""
    engine_args: str = ""
    """More arguments for every `vllm serve`, as one quoted string: --engine-args "--max-model-len 2048"."""
    usd_per_hour: Number = None
    """Price of the whole machine; adds dollars per million tokens."""
    workload: Annotated[Path | None, optional("FILE")] = None
    """Your own requests: ShareGPT conversations, prompts as JSON lines, or a trace (JSON lines or CSV); .gz works."""
    time_scale: Number = None
    """Stretch the times of a replayed trace: 0.5 sends it twice as fast. By default 1."""
    guess: Number = None
    """Your answer to the question that a terminal is asked before the run; it is kept and shown beside the result."""
    oversubscribe: bool = False
    """Run plans that need more devices than there are, flagged and without efficiency."""
    allow_shared: bool = False
    """Go on although somebody else uses the devices' memory, flagged."""
    engine_python: Annotated[Path | None, optional("PATH")] = None
    """Measure the vLLM of another environment: its python, as in /opt/vllm-0.31/bin/python. By default this one."""
    dry_run_gpus: Count = None
    """With --dry-run: plan for a machine with so many GPUs instead of this one. Where the hub is not reached, a known
    model's shape comes from a table."""

    @property
    def budget_s(self) -> float | None:
        """Seconds that the run may take; None: as many as it needs."""
        return None

    def tp_sizes(self) -> list[int]:
        """The sizes as numbers, ascending, each once.

        Raises:
            InputError: none, not a whole number, or below 1.
        """
        if self.tp is None:
            return list(DEFAULT_TP)
        if not self.tp:
            raise InputError("--tp needs at least one size, as in --tp 1 2 4")
        for text in self.tp:
            if not re.fullmatch(r"\d{1,4}", text) or int(text) < 1:
                raise InputError(f"--tp {text}: a tensor-parallel size is a number from 1 to 9999, as in --tp 1 2 4")
        return sorted({int(text) for text in self.tp})

    def check(self) -> None:
        """Check what no type can say.

        Raises:
            InputError: a number out of its range.
        """
        self.tp_sizes()
        if self.model is not None and not self.model.strip():
            raise InputError("--model: the name is empty; leave the option out for the default, or name a model")
        check_counts({"--repeats": self.repeats})
        if self.repeats is not None and self.repeats > MOST_REPEATS:
            raise InputError(
                f"--repeats {self.repeats}: at most {MOST_REPEATS:,} of each case; --preset takes more starts"
            )
        if self.seed < 0:
            raise InputError(f"--seed {self.seed}: a seed is 0 or more")
        if self.usd_per_hour is not None and not 0 < self.usd_per_hour < 1e6:
            raise InputError(f"--usd-per-hour {self.usd_per_hour}: the price of the whole machine, as in 7.60")
        if self.time_scale is not None and self.workload is None:
            raise InputError("--time-scale needs a trace to stretch: give one with --workload FILE")
        if self.time_scale is not None and not 0 < self.time_scale < 1e6:
            raise InputError(f"--time-scale {self.time_scale}: a factor above 0, as in 0.5 for twice the load")
        if self.dry_run_gpus is not None and not (self.dry_run and 1 <= self.dry_run_gpus <= 64):
            why = "from 1 to 64 can be planned for" if self.dry_run else "GPUs that are not here; add --dry-run"
            raise InputError(f"--dry-run-gpus {self.dry_run_gpus}: {why}")
        if self.guess is not None and not 0 < self.guess < 1e6:
            raise InputError(f"--guess {self.guess}: a number above 0, as in 1.6")


class CommandLine(Protocol):
    """Options of any script: a frozen dataclass that can check itself."""

    def check(self) -> None:
        """Check what no type can say.

        Raises:
            InputError: a number out of its range.
        """


Parsed = TypeVar("Parsed", bound=CommandLine)


def parse(kind: type[Parsed], description: str, arguments: list[str] | None = None) -> Parsed:
    """Read the command line into a frozen dataclass; ends the process with exit 2 and one line where it is wrong."""
    box = io.StringIO()
    try:
        with contextlib.redirect_stderr(box):
            words = sys.argv[1:] if arguments is None else arguments
            _check_paths(words)
            options = tyro.cli(with_whole_lines(kind), args=_joined(words, kind), description=_unwrapped(description))
            options.check()
    except InputError as error:
        refuse(str(error))
    except SystemExit as end:
        if end.code:
            refuse(one_line(box.getvalue()))
        raise
    return options


def _check_paths(words: Sequence[str]) -> None:
    for flag in PATHS:
        if f"{flag}=" in words or (flag, "") in pairwise(words):
            raise InputError(f"{flag}: the path is empty; leave the option out for the default, or name one")


def check_load(concurrency: Sequence[int], counts: Mapping[str, int | None]) -> None:
    """Check streams, and counts by their flag, that are 1 or more where they are given.

    Raises:
        InputError: one is not, or more streams than a client can drive.
    """
    if not concurrency:
        raise InputError("--concurrency needs at least one number, as in --concurrency 1 4 16")
    check_counts({**counts, "--concurrency": min(concurrency)})
    if max(concurrency) > MOST_STREAMS:
        raise InputError(f"--concurrency {max(concurrency)}: at most {MOST_STREAMS} streams can be driven")


def check_counts(counts: Mapping[str, int | None]) -> None:
    """Check that counts, by their flag, are 1 or more where they are given.

    Raises:
        InputError: one is not.
    """
    for flag, count in counts.items():
        if count is not None and count < 1:
            raise InputError(f"{flag} {count}: at least 1 is needed")


def check_requests(flag: str, count: int | None, streams: int = 1) -> None:
    """Check that a repeat with so many requests, on each of so many streams, is one that can be made.

    Raises:
        InputError: it would hold more than `MOST_REQUESTS`.
    """
    if count is not None and count * streams > MOST_REQUESTS:
        raise InputError(
            f"{flag} {count}: at most {MOST_REQUESTS // streams:,}, since the prompts of a repeat are made before it"
        )


def refuse(message: str) -> None:
    """Print one line and end the process with exit 2."""
    print(f"error: {typed(message)}", file=sys.stderr)  # noqa: T201  # this is the command line
    raise SystemExit(BAD_INPUT)


def _unwrapped(description: str) -> str:
    """tyro joins lines that begin with a letter; a docstring that is a protocol wants its own line breaks.

    Its examples name the script alone; what is printed works where it is read.
    """
    script = Path(sys.argv[0]).resolve()
    if script.parent == WEEK:
        description = description.replace(f"python {script.name}", f"python {from_here(script)}")
    return textwrap.indent(description, " ")


def _joined(arguments: list[str], kind: type[Any]) -> list[str]:
    """`--engine-args "--x 1"` as one word: a value that begins with dashes would pass for an option.

    One of our own options after it is no value: a forgotten value must not turn a dry run into a real one.
    """
    own = {f"--{field.name.replace('_', '-')}" for field in fields(kind)} | {"--no-resume", "--help"}
    words: list[str] = []
    for word in arguments:
        if words and words[-1] == "--engine-args" and word.partition("=")[0] not in own:
            words[-1] += f"={word}"
        else:
            words.append(word)
    return words
