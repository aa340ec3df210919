"""Two processes joined by gloo, which call functions of an exercise on request."""

from __future__ import annotations

import contextlib
import importlib.util
import multiprocessing
import pickle
import tempfile
import traceback
from datetime import timedelta
from multiprocessing.connection import Connection
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import Tensor

RANKS = 2
Answer = tuple[str, Any, int]
PATIENCE_S = 20.0  # a rank that waits longer waits for a call that the other one does not make


class ExerciseError(AssertionError):
    """A rank raised, or waited for the other in vain; the message says which, and why."""


class Link:
    """One rank's end of the link: who it is, how many there are, and a sum over all of them."""

    def __init__(self, rank: int, ranks: int) -> None:
        self.rank, self.ranks = rank, ranks
        self.all_reduces = 0

    def all_reduce(self, tensor: Tensor) -> Tensor:
        """The sum of the ranks' tensors, a new one, on every rank. Every rank must call it."""
        import torch.distributed

        self.all_reduces += 1
        total = tensor.clone().contiguous()
        torch.distributed.all_reduce(total)
        return total


class TwoRanks:
    """Two processes that call an exercise's functions. Use as a context manager; `call` runs a function on both."""

    def __init__(self, exercise: Path, patience_s: float = PATIENCE_S) -> None:
        self.exercise, self._patience_s = exercise, patience_s
        self._folder = tempfile.TemporaryDirectory(prefix="two-ranks-")
        self._pipes: list[Connection] = []
        self._processes: list[Any] = []
        self._generation = 0

    def __enter__(self) -> TwoRanks:
        return self

    def __exit__(self, *_: object) -> None:
        self._end()
        self._folder.cleanup()

    def call(self, function: str, *arguments: list[Any]) -> list[tuple[Any, int]]:
        """What each rank returned, and how many all-reduces it made; `arguments` holds each rank's, in order.

        Raises:
            NotImplementedError: the function is not filled in yet.
            ExerciseError: it raised, or the ranks did not meet.
        """
        if not self._processes:
            self._start()
        for pipe, own in zip(self._pipes, zip(*arguments, strict=True), strict=True):
            with contextlib.suppress(OSError):  # a rank that has ended is found out below
                pipe.send_bytes(pickle.dumps((self.exercise, function, own)))
        answers = [self._answer(rank, pipe, function) for rank, pipe in enumerate(self._pipes)]
        if all(kind == "ok" for kind, *_ in answers):
            return [(value, count) for _, value, count in answers]
        if any(count for *_, count in answers):
            self._end()  # the ranks may have lost each other: two fresh ones for the next call
        kind, text, _ = min((answer for answer in answers if answer[0] != "ok"), key=lambda answer: answer[0])
        raise NotImplementedError(text) if kind == "empty" else ExerciseError(text)

    def _answer(self, rank: int, pipe: Connection, function: str) -> Answer:
        """What a rank says: ("ok", value, all-reduces), ("empty", hint, ...) or ("error", what happened, ...)."""
        try:
            if pipe.poll(self._patience_s + 30):
                answer: Answer = pickle.loads(pipe.recv_bytes())
                return answer
        except (EOFError, OSError):
            return "error", f"rank {rank} ended in {function}: what it printed above says why", -1 - rank
        return "error", f"rank {rank} does not come back from {function}", -1 - rank

    def _start(self) -> None:
        spawning = multiprocessing.get_context("spawn")
        self._generation += 1
        meeting = Path(self._folder.name) / f"meeting-{self._generation}"
        for rank in range(RANKS):
            ours, theirs = spawning.Pipe()
            process = spawning.Process(target=_serve, args=(rank, str(meeting), self._patience_s, theirs))
            process.start()
            theirs.close()
            self._pipes.append(ours)
            self._processes.append(process)
        with contextlib.suppress(EOFError, OSError):  # a rank that has ended is found out by the first call
            for pipe in self._pipes:
                pipe.recv_bytes()
            for pipe in self._pipes:
                pipe.send_bytes(b"")

    def _end(self) -> None:
        for pipe in self._pipes:
            pipe.close()
        for process in self._processes:
            process.join(timeout=1)
            if process.is_alive():
                process.kill()
                process.join()
            process.close()
        self._pipes, self._processes = [], []


def load_exercise(path: Path) -> ModuleType:
    """The module in a file, whatever its folder."""
    spec = importlib.util.spec_from_file_location(path.stem, path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def _serve(rank: int, meeting: str, patience_s: float, pipe: Connection) -> None:
    """A rank's life: meet the other, then answer calls until the pipe closes."""
    import torch
    import torch.distributed

    torch.set_num_threads(1)
    try:  # both have imported before they meet: on a busy machine one takes seconds longer, which is nobody's mistake
        pipe.send_bytes(b"")
        pipe.recv_bytes()
    except (EOFError, OSError):
        return
    torch.distributed.init_process_group(
        "gloo", init_method=f"file://{meeting}", rank=rank, world_size=RANKS, timeout=timedelta(seconds=patience_s)
    )
    while True:
        try:
            exercise, function, arguments = pickle.loads(pipe.recv_bytes())
        except (EOFError, OSError):
            return
        pipe.send_bytes(pickle.dumps(_called(exercise, function, arguments, Link(rank, RANKS))))


def _called(exercise: Path, function: str, arguments: tuple[Any, ...], link: Link) -> Answer:
    """Load the exercise, call one of its functions, and put into words what goes wrong."""
    try:
        value = getattr(load_exercise(exercise), function)(*arguments, link)
    except NotImplementedError as error:
        return "empty", str(error), link.all_reduces
    except Exception as error:  # noqa: BLE001  # whatever a learner's code raises is the answer
        where = traceback.extract_tb(error.__traceback__)[-1]
        reason = str(error).strip()
        if "timed out" in reason.lower() or "connection closed" in reason.lower():
            reason = "this rank waited for an all-reduce that the other did not make"
        line = f"{Path(where.filename).name}, line {where.lineno}"
        return "error", f"{function} on rank {link.rank}: {type(error).__name__} ({line}): {reason}", link.all_reduces
    return "ok", value, link.all_reduces
