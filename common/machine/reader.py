"""Whoever reads what a command prints may leave early, as `| head` does; that is no failure."""

from __future__ import annotations

import os
import select
import sys
from collections.abc import Callable

NOBODY_READS = 128 + 13  # what a shell reports of a command that SIGPIPE (13) ended


def while_read(main: Callable[[], int]) -> int:
    """Run a command and return its exit code; where nobody reads stdout any more, end without a traceback.

    SIGPIPE stays ignored: were it left to end the process, a server that closes a connection would too.

    Raises:
        BrokenPipeError: another pipe than stdout broke.
    """
    try:
        try:
            code = main()
        except SystemExit as ended:
            if isinstance(ended.__context__, BrokenPipeError):  # rich has seen it first, and exits with 1
                return NOBODY_READS
            _flush()
            raise
        _flush()
    except BrokenPipeError:
        if not _is_left():
            raise
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # what is left to flush at the end goes there
        return NOBODY_READS
    return code


def _flush() -> None:
    if sys.stdout is not None:  # closed before the start
        sys.stdout.flush()


def _is_left() -> bool:
    """Whether stdout is the pipe that broke: nobody is at its other end, or what it holds cannot be written."""
    try:
        _flush()
    except BrokenPipeError:
        return True
    if sys.stdout is None or not hasattr(select, "poll"):  # Windows, where such a pipe is another error
        return False
    end = select.poll()
    end.register(sys.stdout.fileno(), 0)  # errors are told unasked
    return any(state & select.POLLERR for _, state in end.poll(0))
