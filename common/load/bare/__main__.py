"""A bare server of known timing: prints its address; ends when its input is closed (Ctrl-D) or at Ctrl-C, and then
tells what it truly did. In the background give it an input that stays open: `sleep 1d | python -m common.load.bare &`.
"""

from __future__ import annotations

import argparse
import contextlib
import gc
import json
import os
import sys
import threading
from dataclasses import asdict

from common.load.bare.server import BareServer

_MOST_FILES = 8_192  # macOS refuses more than 10,240


def _make_room_for_files() -> None:
    """Raise the limit on open files, and let the kernel's table of them grow now.

    Linux grows the table on the way, at 64 files, 256 and so on; in a process with threads it then waits for all CPUs
    to pass a quiet state (`expand_fdtable` calls `synchronize_rcu`), which held the first requests up for 5 to 20 ms.
    """
    if sys.platform == "win32":
        return
    import fcntl
    import resource

    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    room = _MOST_FILES if hard == resource.RLIM_INFINITY else min(hard, _MOST_FILES)
    resource.setrlimit(resource.RLIMIT_NOFILE, (room, hard))
    os.close(fcntl.fcntl(0, fcntl.F_DUPFD, room - 1))


def _milliseconds(text: str) -> float:
    value = float(text)
    if not 0 <= value <= 3_600_000:
        raise argparse.ArgumentTypeError(f"must be 0 to 3600000 milliseconds, not {text}")
    return value


def _stop_at_end_of_input(server: BareServer) -> None:
    sys.stdin.buffer.read()
    server.stop()


def main() -> None:
    """Serve until standard input is closed, or Ctrl-C."""
    parser = argparse.ArgumentParser(prog="python -m common.load.bare", description=(__doc__ or ""))
    parser.add_argument("--ttft-ms", type=_milliseconds, default=50.0, help="request read to first token")
    parser.add_argument("--itl-ms", type=_milliseconds, default=10.0, help="from token to token; 0 is a flood")
    parser.add_argument("--port", type=int, default=0, help="by default a free one")
    options = parser.parse_args()
    _make_room_for_files()
    try:
        server = BareServer(options.ttft_ms / 1e3, options.itl_ms / 1e3, options.port)
    except (OSError, OverflowError) as failure:
        parser.error(f"--port {options.port}: {failure}; leave it out for a free one")
    sys.stdout.write(server.address + "\n")
    sys.stdout.flush()
    gc.disable()  # nothing here makes cycles, and a collection would be late tokens
    threading.Thread(target=_stop_at_end_of_input, args=(server,), daemon=True).start()
    with contextlib.suppress(KeyboardInterrupt):
        server.run()
    with contextlib.suppress(BrokenPipeError):
        sys.stdout.write(json.dumps(asdict(server.log.summary())) + "\n")
        sys.stdout.flush()


if __name__ == "__main__":
    main()
