"""A second environment, made by `venv` without pip, that has the first one's packages or a vLLM of the test's own."""

from __future__ import annotations

import sysconfig
import venv
from pathlib import Path

SITE = Path(sysconfig.get_path("purelib"))
# What of `vllm serve` is needed to parse a command line: where vLLM has it, built from argparse as vLLM builds it
SERVE = """
import argparse

print("a log line on standard output, as vLLM writes them")

class FlexibleArgumentParser(argparse.ArgumentParser):
    def error(self, message):
        super().error(message)

class Serve:
    def subparser_init(self, subparsers):
        parser = subparsers.add_parser("serve")
        parser.add_argument("model_tag", nargs="?")
        for name in ("host", "served-model-name", "dtype", "generation-config", "worker-extension-cls",
                     "uvicorn-log-level", "config"):
            parser.add_argument("--" + name)
        for name in ("port", "tensor-parallel-size", "pipeline-parallel-size", "data-parallel-size", "max-model-len",
                     "max-num-seqs", "max-num-batched-tokens", "seed", "block-size"):
            parser.add_argument("--" + name, type=int)
        parser.add_argument("--gpu-memory-utilization", type=float)
        for name in ("enable-prefix-caching", "async-scheduling"):
            parser.add_argument("--" + name, action=argparse.BooleanOptionalAction)
        for name in ("disable-uvicorn-access-log", "enforce-eager", "enable-expert-parallel"):
            parser.add_argument("--" + name, action="store_true")
        return parser

    def validate(self, args):
        if args.max_num_seqs > args.max_num_batched_tokens:
            raise ValueError("max_num_seqs\\nis too large")

def cmd_init():
    return [Serve()]
"""


def make_environment(folder: Path, with_packages_of_this_one: bool = False) -> Path:
    """A virtual environment; returns its python."""
    venv.create(folder, with_pip=False, symlinks=True)
    if with_packages_of_this_one:
        (site_packages(folder) / "first.pth").write_text(f"{SITE}\n")
    return folder / "bin" / "python"


def add_vllm(folder: Path, distribution: str | None, version: str = "9.9.1", serve: str = SERVE) -> None:
    """Give the environment a `vllm` that can parse command lines, under a distribution's name, and a torch."""
    package = site_packages(folder) / "vllm" / "entrypoints" / "cli"
    package.mkdir(parents=True)
    for place in (package, package.parent, package.parent.parent):
        (place / "__init__.py").write_text("")
    (package / "serve.py").write_text(serve)
    if distribution:
        add_distribution(folder, distribution, version)
        add_distribution(folder, "torch", "8.8.1")


def add_distribution(folder: Path, name: str, version: str) -> None:
    """Metadata of a package, without the package."""
    info = site_packages(folder) / f"{name.replace('-', '_')}-{version}.dist-info"
    info.mkdir()
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n")


def site_packages(folder: Path) -> Path:
    """Where the environment's packages lie."""
    (found,) = folder.glob("lib/python*/site-packages")
    return found
