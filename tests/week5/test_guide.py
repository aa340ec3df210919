"""Everything a reader can follow in the guide and its exercises can be followed: commands, links, anchors."""

from __future__ import annotations

import importlib.util
import re
import shlex
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import tyro

from common.analysis.learning.beliefs import BELIEFS
from common.cloud import options as rent
from common.engines.failures import _KNOWN, GUIDE, EngineError, Failure
from tests.experiment.script import Script

ROOT = Path(__file__).resolve().parents[2]
WEEK = ROOT / "week5"
PAGES = [WEEK / "README.md", *sorted((WEEK / "exercises").glob("*.md"))]
SCRIPTS = (
    *("benchmark_scaling", "simulate_concurrent_requests", "test_mixed_workload", "test_tensor_parallel"),
    *("predict_scaling", "run_distributed_benchmark", "compare_parallel_plans", "explain_loss"),
)
MODULES = {"common.analysis": ("look", "report", "compare", "share"), "common.predict": ("evaluate",)}
KIND = re.compile(r"(?:Failure|CaseError)\(\s*\"([a-z_]+)\"")


def text_of(page: Path) -> str:
    return page.read_text(encoding="utf-8")


def commands() -> Iterator[tuple[str, str]]:
    """(page, command): lines of code blocks, and code in a sentence, that begin with python or make."""
    for page in PAGES:
        text = text_of(page)
        blocks = re.findall(r"```\n(.*?)```", text, re.DOTALL)
        lines = [line.partition("  #")[0].strip() for block in blocks for line in block.splitlines()]
        sentences = re.findall(r"`([^`\n]+)`", re.sub(r"```\n.*?```", "", text, flags=re.DOTALL))
        for command in dict.fromkeys([*lines, *sentences]):
            if command.startswith(("python ", "make ", "srun ")):
                yield page.name, command


COMMANDS = sorted(set(commands()))


def slugs(text: str) -> set[str]:
    """Anchors of a page: its headings as GitHub writes them, and those set by hand."""
    headings = re.findall(r"^#+ (.+)$", text, re.MULTILINE)
    made = {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}
    return made | set(re.findall(r'<a id="([^"]+)">', text))


def kinds() -> set[str]:
    """Every kind of failure that any code of the lab gives a reader."""
    found = {kind for _, kind, _, _ in _KNOWN}
    for path in (ROOT / "common").rglob("*.py"):
        found |= set(KIND.findall(path.read_text(encoding="utf-8")))
    return found


def load(script: Path) -> ModuleType:
    """A script as a module, under a name of its own: nothing is run."""
    name = f"guide_{script.stem}"
    spec = importlib.util.spec_from_file_location(name, script)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module  # dataclasses look their module up
    spec.loader.exec_module(module)
    return module


class Parsed(Exception):  # the command line was understood, and nothing more is wanted
    pass


@pytest.mark.parametrize(("page", "command"), COMMANDS, ids=[command for _, command in COMMANDS])
def test_a_command_parses(page: str, command: str, monkeypatch: pytest.MonkeyPatch) -> None:
    words = shlex.split(command)
    while words[0] != "python" and words[0] != "make":
        words = words[1:]  # srun and its options
    if words[0] == "make":
        assert re.search(rf"^{words[1]}:", (ROOT / "Makefile").read_text(), re.MULTILINE), command
    elif words[1:3] == ["-m", "pytest"]:
        assert list((ROOT / words[3]).glob("test_*.py")), command
    elif words[1] == "-m":
        assert words[3] in MODULES[words[2]], command
    elif words[1].endswith("/run.py"):
        assert (ROOT / words[1]).is_file(), command
        rent.parse([word for word in words[2:] if word != "..."], words[1], "")  # tests/cloud plans whole ones
    else:
        assert (ROOT / words[1]).is_file(), command
        module = load(ROOT / words[1])

        def parse(kind: type[Any], description: str) -> None:
            from common.experiment import options

            options.parse(kind, description, words[2:])
            raise Parsed

        def command_line(kind: type[Any], description: str) -> None:
            cli(kind, args=words[2:], description=description)
            raise Parsed

        cli = tyro.cli
        if hasattr(module, "parse"):
            monkeypatch.setattr(module, "parse", parse)
        else:  # starts no engine, and reads its command line itself
            monkeypatch.setattr(tyro, "cli", command_line)
        with pytest.raises(SystemExit if words[2:] == ["--help"] else Parsed):
            module.main()


def test_the_guide_has_commands() -> None:
    assert len(COMMANDS) > 25
    assert {page for page, _ in COMMANDS} == {page.name for page in PAGES}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_resolve(page: Path) -> None:
    text = text_of(page)
    for target in re.findall(r"\]\(([^)]+)\)", text):
        if target.startswith("https://"):
            continue
        file, _, anchor = target.partition("#")
        linked = (page.parent / file) if file else page
        assert linked.is_file(), target
        if anchor:
            assert anchor in slugs(text_of(linked)), target


def test_every_kind_of_failure_has_its_paragraph() -> None:
    guide = slugs(text_of(ROOT / GUIDE))
    missing = {kind for kind in kinds() if kind.replace("_", "-") not in guide}
    assert not missing, f"{GUIDE} lacks a paragraph on {', '.join(sorted(missing))}"
    assert len(kinds()) > 12


def test_every_paragraph_has_message_cause_check_and_mend() -> None:
    entries = text_of(ROOT / GUIDE).partition("## Troubleshooting")[2].partition("\n## ")[0].split("\n### ")[1:]
    assert len(entries) > 15
    for entry in entries:
        found = re.findall(r"^- \*\*(\w+)\*\* \S", entry, re.MULTILINE)
        assert found == ["Message", "Cause", "Check", "Mend"], entry.splitlines()[0]


def test_an_error_names_its_paragraph() -> None:
    failure = Failure("out_of_memory", "the device ran out of memory", "Use more devices")
    assert str(EngineError(failure)) == (
        "the device ran out of memory. Use more devices (see week5/README.md#out-of-memory)"
    )


def test_every_script_has_three_exercises_with_a_deliverable() -> None:
    for name in SCRIPTS:
        text = text_of(WEEK / "exercises" / f"{name}.md")
        assert len(re.findall(r"^\*\*\d\. ", text, re.MULTILINE)) == 3, name
        assert text.count("*Deliver:*") == 3, name
        assert f"python week5/{name}.py" in text


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_no_path_of_this_machine(page: Path) -> None:
    text = text_of(page)
    assert str(ROOT) not in text
    assert str(Path.home()) == "/root" or str(Path.home()) not in text
    assert not re.search(r"(?<![\w.~<])/(?:home|root|work|tmp|Users)\b", text)


def test_numbers_of_others_stand_beside_their_source() -> None:
    """In the section on what to expect, every table row and paragraph with a published number has a link near it."""
    section = text_of(WEEK / "README.md").partition("## What to expect")[2].partition("\n## ")[0]
    for paragraph in section.split("\n\n"):
        if re.search(r"\d\.\d\d|\d{3,} tok", paragraph) and "own reference" not in paragraph:
            near = section[max(0, section.index(paragraph) - 300) : section.index(paragraph) + len(paragraph)]
            assert "https://" in near, paragraph


def test_requirements_point_to_the_roots() -> None:
    assert "-r ../requirements.txt" in (WEEK / "requirements.txt").read_text().splitlines()


def test_the_guide_has_every_belief_that_a_result_is_held_against() -> None:
    section = text_of(ROOT / GUIDE).partition("### Ten beliefs\n")[2].partition("\n#")[0]
    rows = [line for line in section.splitlines() if line.startswith("| ")][1:]
    assert len(rows) == len(BELIEFS) == 10


def test_limits_are_written_one_way() -> None:
    pages = [*PAGES, ROOT / "README.md", *WEEK.glob("*.py"), *(WEEK.parent / "common").rglob("*.py")]
    written = {word for page in pages for word in re.findall(r"--slo [^`\n]*?(?:ttft|tpot)[^`\n]*", text_of(page))}
    assert written and not [word for word in written if re.search(r"(ttft|tpot):\d|ttft=\d+,", word)]


def test_the_evening_takes_as_long_as_the_dry_runs_say(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    evening = text_of(WEEK / "README.md").partition("## An evening for $20")[2].partition("\n## ")[0]
    rows = re.findall(
        r"^\| (\d+)-(\d+) \|.*`python week5/(\w+)\.py ([^`]*)`.* \| \$([\d.]+) \|$", evening, re.MULTILINE
    )
    planned = ["--model", "Qwen/Qwen2.5-7B-Instruct", "--dry-run-gpus", "4", "--results-dir", str(tmp_path)]

    def minutes_of(name: str, words: str) -> float:
        script = Script(load(WEEK / f"{name}.py"), monkeypatch, capsys)
        outcome = script(*shlex.split(words), "--dry-run", *planned)
        assert outcome.code == 0, outcome
        return float(outcome.last["summary"]["minutes"])

    measuring = [row for row in rows if "--dry-run" not in row[3]]
    assert len(measuring) == 5
    for begin, end, name, words, usd in measuring:
        assert 0 <= int(end) - int(begin) - minutes_of(name, words) < 1.5, (name, words)
        assert float(usd) == pytest.approx(int(end) / 60 * 7.18, abs=0.01)
    said = re.search(r"in about (\d+) minutes, because each engine is started once", evening.replace("\n", " "))
    whole = re.search(r"^python week5/(run_distributed_benchmark)\.py (.*)$", evening, re.MULTILINE)
    assert said and whole and int(said[1]) == round(minutes_of(*whole.groups()))
