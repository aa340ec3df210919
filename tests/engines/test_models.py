"""Finding a model: every way it can be missing is one line with a remedy, and quick."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest
from tokenizers import Tokenizer

from common.engines import models
from common.engines.models import ModelError, default_model, find_model, token_counter
from common.engines.reference_models import REFERENCE_MODELS, ensure_model


@pytest.fixture(scope="session")
def reference(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return ensure_model("qwen2-9m", tmp_path_factory.mktemp("models"))


@pytest.fixture
def folder(tmp_path: Path, reference: Path) -> Path:
    """A user's own model folder, complete: the files are links to a reference model's."""
    own = tmp_path / "my model.v1"
    own.mkdir()
    for file in ("config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json"):
        (own / file).symlink_to(reference / file)
    return own


def own_file(path: Path, content: bytes) -> None:
    """In place of the link: what it points to is everybody's."""
    path.unlink()
    path.write_bytes(content)


def quiet(_: str) -> None:
    pass


def refusal(name: str, download: bool = True) -> str:
    with pytest.raises(ModelError) as caught:
        find_model(name, quiet, download)
    message = str(caught.value)
    assert "\n" not in message
    return message


def test_the_default_follows_the_devices() -> None:
    assert default_model("cpu", 64) == "qwen2-126m"
    assert [default_model("gpu", count) for count in (1, 2, 4)] == ["Qwen/Qwen2.5-7B-Instruct"] * 3
    assert default_model("gpu", 8) == "Qwen/Qwen3-8B", "28 heads do not divide by 8"
    assert default_model("cpu", 1) in REFERENCE_MODELS


def test_a_reference_model_is_made_where_the_cache_is(monkeypatch: pytest.MonkeyPatch, reference: Path) -> None:
    monkeypatch.setenv("LAB_CACHE_DIR", str(reference.parents[1]))
    said: list[str] = []
    model = find_model("qwen2-9m", said.append)
    assert (model.name, model.folder) == ("qwen2-9m", reference)
    assert model.shape.num_attention_heads == 8
    assert said == [], "it was already there"


def test_a_users_folder_is_taken_as_it_is(folder: Path) -> None:
    model = find_model(str(folder), quiet)
    assert model.folder == folder.resolve()
    assert model.name == "my model.v1"
    assert model.shape.hidden_size == 256


def test_a_folder_may_be_relative_or_in_the_home(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(folder.parent)
    monkeypatch.setenv("HOME", str(folder.parent))
    assert find_model("my model.v1", quiet).folder == folder.resolve()
    assert find_model("~/my model.v1", quiet).folder == folder.resolve()


def test_a_relative_folder_wins_over_a_hub_id(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (folder.parent / "owner").mkdir()
    (folder.parent / "owner" / "name").symlink_to(folder)
    monkeypatch.chdir(folder.parent)
    assert find_model("owner/name", quiet).folder == folder.resolve()


@pytest.mark.parametrize("name", ["qwen2-126", "qwen2_126m", "Qwen2-126M", "qwen2-126b"])
def test_a_near_miss_names_the_nearest(name: str) -> None:
    message = refusal(name)
    assert f"unknown model '{name}'" in message
    assert "did you mean qwen2-126m?" in message


@pytest.mark.parametrize("name", ["llama", "a/b/c", "owner/na me"])
def test_an_unknown_model_says_what_can_be_given(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    message = refusal(name)
    assert "unknown model" in message
    assert all(reference in message for reference in REFERENCE_MODELS)


@pytest.mark.parametrize("name", ["/nowhere/at/all", "./missing", "../missing", "~/missing"])
def test_a_missing_folder_is_called_one(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert f"there is no folder {name}: check the path" in refusal(name)


@pytest.mark.parametrize(
    ("missing", "named"),
    [
        (["config.json"], ["config.json"]),
        (["model.safetensors"], ["weights (*.safetensors)"]),
        (["tokenizer.json", "tokenizer_config.json"], ["tokenizer (tokenizer.json)"]),
        (["config.json", "model.safetensors"], ["config.json", "weights"]),
    ],
)
def test_an_incomplete_folder_says_what_it_lacks(folder: Path, missing: list[str], named: list[str]) -> None:
    for file in missing:
        (folder / file).unlink()
    message = refusal(str(folder))
    assert str(folder) in message
    assert all(name in message for name in named)
    assert message.endswith("point --model to a complete model folder")


@pytest.mark.parametrize(
    ("file", "kept", "said"),
    [
        ("model.safetensors", 0, "it has no header"),
        ("model.safetensors", 9, "it has no header"),
        ("model.safetensors", 100_000, "it holds 100,000 of "),
        ("model.safetensors", -1, "it holds "),
        ("tokenizer.json", 500, "cannot be read: "),
        ("tokenizer_config.json", 1, "cannot be read: "),
    ],
)
def test_a_download_that_broke_off_is_seen_before_an_engine_starts(
    folder: Path, file: str, kept: int, said: str
) -> None:
    own_file(folder / file, (folder / file).read_bytes()[:kept])
    message = refusal(str(folder))
    assert str(folder / file) in message and said in message and message.endswith("download the model again")


def test_a_link_to_nothing_is_one_line(folder: Path) -> None:
    weights = folder / "model.safetensors"
    weights.unlink()
    weights.symlink_to(folder / "gone")
    assert f"{weights} cannot be read: No such file or directory; download" in refusal(str(folder))


def test_a_pointer_in_place_of_weights_is_none(folder: Path) -> None:
    own_file(folder / "model.safetensors", b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n")
    assert "model.safetensors is cut off or damaged: it has no header" in refusal(str(folder))


def test_tokenizer_settings_alone_are_no_tokenizer(folder: Path) -> None:
    """`tokenizer_config.json` names a class; the vocabulary is in another file."""
    (folder / "tokenizer.json").unlink()
    assert "tokenizer" in refusal(str(folder))


def test_training_leftovers_are_no_weights(folder: Path) -> None:
    (folder / "model.safetensors").unlink()
    (folder / "training_args.bin").write_bytes(b"x")
    (folder / "optimizer.pt").write_bytes(b"x")
    assert "weights" in refusal(str(folder))


def test_an_empty_folder_lacks_everything(tmp_path: Path) -> None:
    message = refusal(str(tmp_path))
    assert all(word in message for word in ("config.json", "weights", "tokenizer"))


@pytest.mark.parametrize(
    ("content", "named"), [("{", "config.json"), ("[]", "config.json"), ("{}", "hidden_size"), ("7", "config.json")]
)
def test_a_config_that_cannot_be_read_is_refused(folder: Path, content: str, named: str) -> None:
    (folder / "config.json").unlink()
    (folder / "config.json").write_text(content)
    assert named in refusal(str(folder))


def find_in_a_process(environment: dict[str, str], download: bool) -> tuple[str, str, float]:
    """What a fresh process says of a hub id; the hub's client reads its settings when it is imported."""
    code = (
        "from common.engines.models import ModelError, find_model\n"
        f"try:\n    print('FOUND', find_model('nobody/nothing', lambda line: None, {download}).folder)\n"
        "except ModelError as error:\n    print('REFUSED', error)"
    )
    began = time.monotonic()
    said = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        check=True,
        timeout=15,
        env=os.environ | environment,
    )
    return said.stdout, said.stderr, time.monotonic() - began


NO_PROXY = dict.fromkeys(("http_proxy", "https_proxy", "HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY"), "")


@pytest.mark.parametrize("download", [True, False], ids=["download", "dry-run"])
@pytest.mark.parametrize(
    "network", [{"HF_HUB_OFFLINE": "1"}, {"HF_ENDPOINT": "http://127.0.0.1:9", **NO_PROXY}], ids=["offline", "refused"]
)
@pytest.mark.timeout(60)
@pytest.mark.slow
def test_a_hub_that_cannot_be_reached_is_one_line_within_seconds(
    tmp_path: Path, network: dict[str, str], download: bool
) -> None:
    out, err, seconds = find_in_a_process({"HF_HOME": str(tmp_path), **network}, download)
    assert out.startswith("REFUSED nobody/nothing is not in the local cache and the hub cannot be reached: ")
    assert out.count("\n") == 1
    assert "qwen2-126m" in out, "the remedy names what needs no network"
    assert seconds < 12
    assert "Traceback" not in err
    assert err.count("\n") <= 1, err


def hub_cache(root: Path, reference: Path, files: list[str]) -> Path:
    """A snapshot as the hub's client leaves it, holding some of the files."""
    repository = root / "hub" / "models--nobody--nothing"
    snapshot = repository / "snapshots" / ("0" * 40)
    snapshot.mkdir(parents=True)
    (repository / "refs").mkdir()
    (repository / "refs" / "main").write_text("0" * 40)
    for file in files:
        (snapshot / file).symlink_to(reference / file)
    return snapshot


def test_a_model_in_the_local_cache_needs_no_hub(tmp_path: Path, reference: Path) -> None:
    files = ["config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json"]
    snapshot = hub_cache(tmp_path, reference, files)
    out, _, _ = find_in_a_process({"HF_HOME": str(tmp_path), "HF_HUB_OFFLINE": "1"}, True)
    assert out == f"FOUND {snapshot}\n"


@pytest.mark.slow
@pytest.mark.parametrize("files", [["config.json"], ["config.json", "tokenizer.json"]])
def test_half_a_model_in_the_local_cache_is_not_taken_for_one(
    tmp_path: Path, reference: Path, files: list[str]
) -> None:
    """A dry run fetches config.json only; an interrupted download leaves some of the files."""
    hub_cache(tmp_path, reference, files)
    out, _, _ = find_in_a_process({"HF_HOME": str(tmp_path), "HF_HUB_OFFLINE": "1"}, True)
    assert out.startswith("REFUSED")


def test_a_sharded_model_with_a_missing_shard_is_not_taken_for_one(tmp_path: Path, reference: Path) -> None:
    snapshot = hub_cache(tmp_path, reference, ["config.json", "tokenizer.json"])
    (snapshot / "model-00001-of-00002.safetensors").symlink_to(reference / "model.safetensors")
    weights = {"a": "model-00001-of-00002.safetensors", "b": "model-00002-of-00002.safetensors"}
    (snapshot / "model.safetensors.index.json").write_text(json.dumps({"weight_map": weights}))
    out, _, _ = find_in_a_process({"HF_HOME": str(tmp_path), "HF_HUB_OFFLINE": "1"}, True)
    assert out.startswith("REFUSED")


@pytest.mark.parametrize(
    ("error_name", "said"),
    [("GatedRepoError", "is gated: accept its licence"), ("RepositoryNotFoundError", "the hub knows no model")],
)
def test_gated_and_unknown_models_name_the_token(error_name: str, said: str) -> None:
    from huggingface_hub import errors

    kind = getattr(errors, error_name)
    error = kind.__new__(kind)
    with pytest.raises(ModelError, match=said) as caught, models._hub_errors_explained("owner/name"):
        raise error
    assert "HF_TOKEN" in str(caught.value)


# --- counting tokens


def test_texts_are_counted_by_the_models_own_tokenizer(folder: Path) -> None:
    model = find_model(str(folder), quiet)
    count = token_counter(model)
    assert count("") == 0
    assert count("hello, world") == len(
        Tokenizer.from_file(str(model.folder / "tokenizer.json")).encode("hello, world").ids
    )
    assert count("abc" * 5_000) > 1_000


def test_a_tokenizer_that_cuts_and_pads_does_not_when_it_counts(folder: Path) -> None:
    model = find_model(str(folder), quiet)
    path = model.folder / "tokenizer.json"
    plain = token_counter(model)("hello, world")
    cutting = Tokenizer.from_file(str(path))
    cutting.enable_truncation(3)
    cutting.enable_padding(length=64)
    path.unlink()  # the link, not the reference model's own
    cutting.save(str(path))
    assert token_counter(model)("hello, world") == plain > 3


@pytest.mark.parametrize("content", [None, "", "{}", "not json"])
def test_a_model_without_a_tokenizer_is_one_line_with_the_way_round_it(folder: Path, content: str | None) -> None:
    model = find_model(str(folder), quiet)
    path = model.folder / "tokenizer.json"
    path.unlink()
    if content is not None:
        path.write_text(content)
    count = token_counter(model)
    with pytest.raises(ModelError, match="give prompts as token ids") as caught:
        count("hello")
    assert "\n" not in str(caught.value)
