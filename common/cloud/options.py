"""The command line of `runpod/run.py` and `aws/run.py`: verbs, their options, and one line for what is wrong."""

from __future__ import annotations

import contextlib
import difflib
import io
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any

import tyro

from common.cloud.errors import Refused
from common.machine.command_line import Text, one_line, optional, with_whole_lines

RESULTS = Path(__file__).resolve().parents[2] / "results"
WITH_VALUE = ("--exp-args", "--max-usd", "--max-hours", "--count", "--mtok")


@dataclass(frozen=True)
class Verb:
    """Options of every verb."""

    results_dir: Path = RESULTS
    """Where results go, and the ledger of every renting, in cloud/."""
    dry_run: bool = False
    """Print what would be asked and what it would cost at most, by the dated table; touches no network."""
    yes: bool = False
    """Do not ask; needed where nobody can answer."""
    region: Text = None
    """AWS: the region, by default us-east-1."""


@dataclass(frozen=True)
class OfMachine(Verb):
    """Which machine."""

    profile: Text = None
    """A machine by name: 2xa100, 4xa100, 4xl4, 4xa10g, 4xl40s, 8xa100, 8xh100."""
    gpu: Text = None
    """A card (Runpod) or machine type (AWS) in place of a profile."""
    count: Text = None
    """How many of --gpu."""
    tier: Text = None
    """Runpod: SECURE (by default) or COMMUNITY, other people's machines."""
    disk_gb: Text = None
    """The machine's disk, in GB."""
    image: Text = None
    """Runpod: another image, with its tag; it must start sshd from PUBLIC_KEY and be of CUDA 13."""


@dataclass(frozen=True)
class Renting(OfMachine):
    """A machine, and what it may cost: both caps are needed."""

    max_usd: Text = None
    """Most dollars of this renting; needed."""
    max_hours: Text = None
    """Most hours of this renting; needed."""
    i_mean_it: bool = False
    """Allow more than 24 hours."""
    ssh_key: Annotated[Path | None, optional("FILE")] = None
    """Private key for the machine, by default ~/.ssh/id_ed25519 or id_rsa; its .pub is sent to the machine."""
    keep_venv: Annotated[str | None, optional("FOLDER")] = None
    """An environment that the machine's image already has, with everything in it: none is made."""


@dataclass(frozen=True)
class OfExperiment:
    """What an experiment is given."""

    exp_args: str = ""
    """More arguments for the experiment, as one quoted string: --exp-args "--preset lab --model Qwen/Qwen3-32B"."""
    env: Annotated[tuple[str, ...], tyro.conf.arg(metavar="NAME=VALUE ...")] = ()
    """Variables for the experiment, as in NCCL_DEBUG=WARN. No secrets: HF_TOKEN is sent by itself where it is set."""


@dataclass(frozen=True)
class Go(OfExperiment, Renting):
    """Quote, rent, run, bring home, terminate, prove it."""

    exp: Text = None
    """The experiment: the name of a script in week5/; run_distributed_benchmark is the whole evening."""


@dataclass(frozen=True)
class Up(Renting):
    """Rent a machine and keep it until `down`, or until its deadline."""


@dataclass(frozen=True)
class OnMachine(Verb):
    """A machine that is up."""

    id: Text = None
    """Its lab id, where several are up."""
    ssh_key: Annotated[Path | None, optional("FILE")] = None
    """Private key for the machine, by default ~/.ssh/id_ed25519 or id_rsa."""


@dataclass(frozen=True)
class Run(OfExperiment, OnMachine):
    """Run an experiment on the machine that is up, and bring its results home."""

    experiment: tyro.conf.Positional[str] = ""
    """The name of a script in week5/."""
    keep_venv: Annotated[str | None, optional("FOLDER")] = None
    """An environment that the machine's image already has: none is made."""


@dataclass(frozen=True)
class Sync(OnMachine):
    """Bring home what is new."""


@dataclass(frozen=True)
class Down(OnMachine):
    """Bring home what is new, terminate, and prove it."""

    discard: bool = False
    """Terminate even if results cannot be brought home."""


@dataclass(frozen=True)
class Verify(Verb):
    """Prove that nothing of the lab is left in the account, twice; ends nothing."""

    all_regions: bool = False
    """AWS: every region of the account."""


@dataclass(frozen=True)
class Sweep(Verb):
    """End every machine of the lab whose deadline is over, whoever rented it, and show the others."""

    all_regions: bool = False
    """AWS: every region of the account."""


@dataclass(frozen=True)
class Cost(Verb):
    """What each renting cost: estimated here, and billed by the provider."""

    mtok: Annotated[str | None, optional("FLOAT")] = None
    """Millions of tokens that came of it, for dollars per million."""


@dataclass(frozen=True)
class Doctor(Verb):
    """Look for what is missing: key, rights, quota, ssh, clock, shape of the API."""

    check_api: bool = False
    """Runpod: hold the fields that are sent against the API's own description."""


@dataclass(frozen=True)
class Price(OfMachine):
    """Live price and stock beside the dated table."""


@dataclass(frozen=True)
class Selftest(Verb):
    """Rent the cheapest card for three minutes and watch it end itself: some cents, once per account."""


VERBS: dict[str, type[Verb]] = {
    **{"go": Go, "doctor": Doctor, "price": Price, "selftest": Selftest, "up": Up, "run": Run, "sync": Sync},
    **{"down": Down, "verify": Verify, "sweep": Sweep, "cost": Cost},
}


def parse(arguments: list[str], program: str, description: str) -> tuple[str, Verb]:
    """The verb and its options.

    Raises:
        Refused: unknown, or not of its type; one line.
        SystemExit: help was asked for.
    """
    name = arguments[0] if arguments else ""
    if name in ("-h", "--help", ""):
        width = max(map(len, VERBS))
        lines = [f"  {verb:{width}}  {(kind.__doc__ or '').splitlines()[0]}" for verb, kind in VERBS.items()]
        print(f"{description}\n\nusage: python {program} VERB [options]; VERB --help says more\n", *lines, sep="\n")  # noqa: T201
        raise SystemExit(0)
    if name not in VERBS:
        near = difflib.get_close_matches(name, list(VERBS), 1, 0)
        raise Refused(f"unknown verb '{name[:40]}'; did you mean {near[0]}? There are {', '.join(VERBS)}")
    box = io.StringIO()
    try:
        with contextlib.redirect_stderr(box):
            options: Any = tyro.cli(
                with_whole_lines(VERBS[name]), args=_joined(arguments[1:]), prog=f"{program} {name}"
            )
    except SystemExit as end:
        if end.code:
            raise Refused(one_line(box.getvalue())) from None
        raise
    return name, _at_home(options)


def _at_home(options: Verb) -> Verb:
    """Paths with their `~` resolved."""
    paths: dict[str, Any] = {name: value for name, value in vars(options).items() if isinstance(value, Path)}
    try:
        return replace(options, **{name: path.expanduser() for name, path in paths.items()})
    except RuntimeError:
        named = [f"--{name.replace('_', '-')} {path}" for name, path in paths.items() if not path.is_absolute()]
        raise Refused(f"{', '.join(named)}: whose home that is, is not known; write the whole path") from None


def _joined(arguments: list[str]) -> list[str]:
    """`--exp-args "--x 1"` as one word: a value that begins with dashes would pass for an option."""
    words: list[str] = []
    for word in arguments:
        if words and words[-1] in WITH_VALUE and not _is_own(word):
            words[-1] += f"={word}"
        else:
            words.append(word)
    return words


def _is_own(word: str) -> bool:
    fields = {name for kind in VERBS.values() for name in kind.__dataclass_fields__}
    return word.startswith("--") and word[2:].partition("=")[0].replace("-", "_") in fields
