"""The vLLM of an interpreter, asked without starting it: which one it is, and whether it takes given arguments."""

from __future__ import annotations

import contextlib
import difflib
import json
import os
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from common.core.plan import ParallelPlan
from common.engines.guard_link import importer_for
from common.engines.settings import EngineSettings, InstalledEngine, base_environment, importer_of
from common.machine.devices import Device

ANSWERS = "common.engines.interpreter_answers"
VERSIONS_LIMIT_S, PARSER_LIMIT_S = 60.0, 300.0  # importing vLLM takes 8 s, and minutes from a slow network disk
REMEDY = "name the python of an environment that has vLLM, as in --engine-python /opt/vllm/bin/python"


def find_engine(python: Path) -> InstalledEngine:
    """The vLLM that an interpreter has installed; asks its metadata and imports nothing.

    Raises:
        ValueError: no interpreter, or one without vLLM; one line with the remedy.
    """
    path = python.expanduser().absolute()  # a venv's python is a link, and only its own place makes it the venv's
    if not path.exists():
        raise ValueError(f"--engine-python {python}: no such file; {REMEDY}")
    if path.is_dir():
        raise ValueError(f"--engine-python {python} is a folder; {REMEDY}")
    if not os.access(path, os.X_OK):
        raise ValueError(f"--engine-python {python} is not executable; {REMEDY}")
    try:
        answer = _ask(str(path), {"question": "versions"}, VERSIONS_LIMIT_S)
    except _NoAnswerError as error:
        raise ValueError(f"--engine-python {python} does not answer as a Python 3 does ({error}); {REMEDY}") from error
    if not answer["has_vllm"]:
        raise ValueError(f"--engine-python {python} has no vllm; install it there, or {REMEDY}")
    if "vllm" not in answer["versions"]:
        raise ValueError(f"--engine-python {python} has a vllm without metadata; install it there with pip")
    return InstalledEngine(str(path), answer["versions"], answer["finds_plugin"])


def check_arguments(settings: EngineSettings, plan: ParallelPlan, devices: Sequence[Device]) -> str | None:
    """Parse the whole command of a plan with vLLM's own parser; why that could not be done, or None.

    Where engines are forked from an importer it is asked: what it has imported then serves the engines as well.

    Raises:
        ValueError: vLLM does not take `settings.extra_args`, or they change what the plan or the lab sets; or it does
            not take the lab's own arguments.
    """
    words = settings.command(plan, port=1)
    words = words[words.index("serve") :]
    own = words[: len(words) - len(settings.extra_args)]
    question = {"question": "arguments", "own": own, "all": words}
    importer = importer_of(settings.python, settings.environment(plan, devices, Path(os.devnull)))
    try:
        answer = _ask_importer(importer, question)
        if answer is None:
            answer = _ask(settings.python, question, PARSER_LIMIT_S)
    except _NoAnswerError as error:
        return str(error)
    if "unchecked" in answer:
        return str(answer["unchecked"])
    if "too_different" in answer:
        reason = " ".join(answer["too_different"].split())
        raise ValueError(f"this vLLM does not take what the lab pins ({reason}); measure another version")
    if "changed" in answer:
        raise ValueError(f"--engine-args may not change {answer['changed']}: the plan and the lab set it")
    if "refused" in answer:
        raise ValueError(f"--engine-args: {_explained(answer['refused'], answer['flags'])}")
    return None


def _explained(message: str, flags: list[str]) -> str:
    """Argparse's message, with the nearest legal flag where one is unknown."""
    message = " ".join(message.split())
    unknown = message.removeprefix("unrecognized arguments: ")
    if unknown == message:
        return f"{message}; see `vllm serve --help=all`"
    words = [word.partition("=")[0] for word in unknown.split()]
    flag = next((word for word in words if word.startswith("-")), None)
    if flag is None:
        return f"'{words[0]}' belongs to no option; quote values that hold spaces, or remove it"
    near = difflib.get_close_matches(flag.replace("_", "-"), flags, n=1)
    hint = f"did you mean {near[0]}?" if near else "see `vllm serve --help=all`"
    return f"vLLM knows no {flag}; {hint}"


class _NoAnswerError(Exception):
    """The interpreter ended, or went on, without an answer."""


def _ask_importer(wanted: Mapping[str, Any] | None, question: dict[str, Any]) -> dict[str, Any] | None:
    """The importer's answer; None where engines have none, or it cannot tell: a new interpreter then says why."""
    if wanted is None:
        return None
    with contextlib.suppress(TimeoutError, ValueError):
        answer = json.loads(importer_for(wanted, Path(os.devnull)).answer(question, PARSER_LIMIT_S))
        return answer if isinstance(answer, dict) else None
    return None


def _ask(python: str, question: dict[str, Any], limit_s: float) -> dict[str, Any]:
    try:
        said = subprocess.run(
            [python, "-m", ANSWERS],
            input=json.dumps(question),
            capture_output=True,
            text=True,
            errors="replace",
            env=base_environment(),
            timeout=limit_s,
            check=False,
        )
        answer = json.loads(said.stdout)
    except subprocess.TimeoutExpired:
        raise _NoAnswerError(f"nothing said in {limit_s:.0f} s") from None
    except OSError as error:
        raise _NoAnswerError(error.strerror or str(error)) from error
    except ValueError:
        lines = said.stderr.strip().splitlines() or [f"exit code {said.returncode}"]
        raise _NoAnswerError(lines[-1][:200]) from None
    if not isinstance(answer, dict):
        raise _NoAnswerError("its answer is not the lab's")
    return answer
