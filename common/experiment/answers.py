"""When answers are worth nothing, and what to do about it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from common.core.plural import plural
from common.core.record import RequestRecord
from common.engines.engine import Engine
from common.engines.failures import EngineError, Failure
from common.engines.remote import HUNG
from common.load.client import STALLED
from common.load.control import ControlError

REMEDIES = {  # by the kind of the first record's error
    "no_usage": "The server must count tokens: use one that answers stream_options.include_usage with `usage`",
    "wrong_usage": "The server counts tokens wrongly: update it",
    "no_content": "The server streams no text: try the other endpoint (--chat, or without it)",
    "http_401": "Put a valid key into the environment variable OPENAI_API_KEY",
    "http_403": "Put a key that may use this model into the environment variable OPENAI_API_KEY",
    "http_404": "The server lacks this endpoint: try the other one (--chat, or without it)",
    "http_405": "The server lacks this endpoint: try the other one (--chat, or without it)",
    "http_429": "The server limits requests: ask for less with --concurrency or --rate",
    "http_400": "Ask for what it can answer: --input-tokens, --output-tokens",
    "timeout": "Ask for less load, or for shorter answers",
}
OTHERWISE = "The engine's log may say more"


def why_useless(records: Sequence[RequestRecord], engine: Engine) -> Failure | None:
    """Why nothing can be said of a load; `None` where some answers came and the engine still serves."""
    failed = [record for record in records if not record.ok]
    if not failed:
        return None
    if stalled := [record for record in failed if record.error_kind == STALLED]:
        return _hung(stalled, len(records) - len(failed), len(records), engine)
    if death := engine.death():
        answered = len(records) - len(failed)
        return replace(
            death, message=f"{death.message} ({answered} of {plural(len(records), 'request')} were answered)"
        )
    if len(failed) < len(records):
        return None
    kind, error = failed[0].error_kind or "", failed[0].error
    message = f"every request failed, the first with {kind}: {error}"
    return Failure("all_requests_failed", message, REMEDIES.get(kind, OTHERWISE))


def _hung(stalled: Sequence[RequestRecord], answered: int, sent: int, engine: Engine) -> Failure:
    """A server that took requests and fell silent: where it stopped, and whether all of it stands still."""
    begun = sum(bool(record.chunk_ns) for record in stalled)
    where = "before the first token of any" if not begun else f"in the middle of {begun} of their answers"
    rest = "it still lists its models, so what stands still is the engine behind its door"
    if engine.death() is not None:
        rest = "nor does it list its models when asked: all of it stands still"
    message = f"{stalled[0].error} while {plural(len(stalled), 'request')} waited, {where}; {rest}"
    message += f" ({answered} of {plural(sent, 'request')} were answered)"
    return Failure(HUNG, message, "Look at its log and start it again: the same command goes on with what is missing")


def no_answer(error: ControlError, engine: Engine) -> EngineError:
    """An engine that did not answer one question: why it died, or, where it lives, what it said."""
    return EngineError(engine.death() or Failure("no_answer", str(error), OTHERWISE))
