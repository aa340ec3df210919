"""Reference models are what they claim: read back with other people's libraries, made twice, damaged, killed."""

from __future__ import annotations

import hashlib
import json
import math
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from common.core.legality import legal_tp_sizes
from common.core.model_shape import ModelShape
from common.engines import reference_models
from common.engines.reference_models import REFERENCE_MODELS, VOCAB_SIZE, cache_root, ensure_model

NAME = "qwen2-9m"
TEXTS = [
    "Hello, world!",
    "the quick brown fox jumps over the lazy dog",
    "Grüße aus München, naïve café",
    "日本語と한국어",
    "emoji 😀👩‍👩‍👧 and \t tabs\nand lines",
    "\x00\x7f\u0080\uffff",
    "",
]


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("cache")


@pytest.fixture(scope="module")
def folder(root: Path) -> Path:
    return ensure_model(NAME, root)


def digests(folder: Path) -> dict[str, str]:
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in folder.iterdir()}


def bits(folder: Path, name: str) -> np.ndarray[tuple[int, ...], np.dtype[np.uint16]]:
    """A tensor's raw bfloat16 bits, found without the code that wrote them."""
    data = (folder / "model.safetensors").read_bytes()
    length = int.from_bytes(data[:8], "little")
    entry = json.loads(data[8 : 8 + length])[name]
    begin, end = (8 + length + offset for offset in entry["data_offsets"])
    return np.frombuffer(data[begin:end], np.uint16).reshape(entry["shape"])


def test_the_models_of_the_issue_are_there() -> None:
    large, small, mixture = (REFERENCE_MODELS[name] for name in ("qwen2-126m", NAME, "qwen3-moe-16m"))
    assert (large.hidden_size, large.intermediate_size, large.num_hidden_layers) == (1024, 4096, 8)
    assert (large.num_attention_heads, large.num_key_value_heads) == (16, 4)
    assert mixture.is_moe
    assert not small.is_moe
    assert VOCAB_SIZE >= 10_240
    for model in REFERENCE_MODELS.values():
        assert {1, 2, 4} <= set(legal_tp_sizes(ModelShape.from_config(model.config())))


@pytest.mark.parametrize(("name", "millions"), [("qwen2-126m", 126), (NAME, 9)])
def test_the_names_lie_between_the_layers_and_the_whole(name: str, millions: int) -> None:
    sizes = {tensor: math.prod(shape) for tensor, shape in REFERENCE_MODELS[name].tensor_shapes()}
    whole = sum(sizes.values())
    assert whole - sizes["model.embed_tokens.weight"] <= 1e6 * millions <= whole


def test_two_caches_hold_the_same_bytes(folder: Path, tmp_path: Path) -> None:
    other = ensure_model(NAME, tmp_path)
    assert other != folder
    assert digests(other) == digests(folder)


def test_a_second_call_makes_nothing(folder: Path, root: Path) -> None:
    said: list[str] = []
    before = (folder / "model.safetensors").stat()
    assert ensure_model(NAME, root, said.append) == folder
    after = (folder / "model.safetensors").stat()
    assert said == []
    assert (before.st_ino, before.st_mtime_ns) == (after.st_ino, after.st_mtime_ns)


def test_the_config_is_a_qwen2_in_bfloat16(folder: Path) -> None:
    config = json.loads((folder / "config.json").read_text())
    assert config["architectures"] == ["Qwen2ForCausalLM"]
    assert config["torch_dtype"] == "bfloat16"
    assert config["tie_word_embeddings"] is True


def test_safetensors_reads_every_tensor(folder: Path) -> None:
    safetensors = pytest.importorskip("safetensors")
    wanted = dict(REFERENCE_MODELS[NAME].tensor_shapes())
    with safetensors.safe_open(folder / "model.safetensors", framework="np") as file:
        found = {name: tuple(file.get_slice(name).get_shape()) for name in file.keys()}  # noqa: SIM118
        assert {file.get_slice(name).get_dtype() for name in wanted} == {"BF16"}
    assert found == wanted


def test_weights_are_random_with_the_given_spread(folder: Path) -> None:
    """bfloat16 is the upper half of float32; norms are ones, matrices normal with the model's standard deviation."""
    weight = bits(folder, "model.layers.3.mlp.down_proj.weight").astype(np.uint32) << 16
    values = weight.view(np.float32)
    assert values.std() == pytest.approx(REFERENCE_MODELS[NAME].init_std, rel=0.02)
    assert abs(values.mean()) < 0.01 * values.std() * 3
    norm = bits(folder, "model.norm.weight").astype(np.uint32) << 16
    assert (norm.view(np.float32) == 1.0).all()
    first = bits(folder, "model.layers.0.mlp.down_proj.weight")
    assert not np.array_equal(first, bits(folder, "model.layers.1.mlp.down_proj.weight"))


@pytest.mark.parametrize(
    ("value", "stored"),
    [
        (1.0, 0x3F80),
        (-2.0, 0xC000),
        (0.0, 0x0000),
        (1.00390625, 0x3F80),  # half way between 1 and 1 + 2^-7: to the even neighbour, down
        (1.01171875, 0x3F82),  # half way between 1 + 2^-7 and 1 + 2^-6: to the even neighbour, up
        (1.0040, 0x3F81),
        (3.14159274, 0x4049),
    ],
)
def test_rounding_to_bfloat16(value: float, stored: int) -> None:
    assert reference_models._to_bfloat16(np.array([value], np.float32)).tolist() == [stored]


# --- tokenizer


def test_text_survives_the_tokenizer(folder: Path) -> None:
    tokenizers = pytest.importorskip("tokenizers")
    tokenizer = tokenizers.Tokenizer.from_file(str(folder / "tokenizer.json"))
    assert tokenizer.get_vocab_size() == VOCAB_SIZE
    for text in TEXTS:
        encoded = tokenizer.encode(text)
        assert tokenizer.decode(encoded.ids, skip_special_tokens=False) == text
        assert all(0 <= token < VOCAB_SIZE for token in encoded.ids)


def test_common_words_take_fewer_tokens_than_letters(folder: Path) -> None:
    tokenizers = pytest.importorskip("tokenizers")
    tokenizer = tokenizers.Tokenizer.from_file(str(folder / "tokenizer.json"))
    text = TEXTS[1]
    assert len(tokenizer.encode(text).ids) < 0.7 * len(text)


def test_special_tokens_are_one_token_each(folder: Path) -> None:
    tokenizers = pytest.importorskip("tokenizers")
    tokenizer = tokenizers.Tokenizer.from_file(str(folder / "tokenizer.json"))
    assert tokenizer.encode("<|im_start|>user").ids[0] == 1
    assert tokenizer.encode("<|endoftext|>").ids == [0]
    assert tokenizer.decode([0, 1, 2]) == "", "skipped when an answer is decoded"


def test_tokens_that_could_end_or_delay_an_answer_have_no_embedding(folder: Path) -> None:
    """Silent are exactly the special tokens and those whose bytes are not whole UTF-8 characters."""
    tokenizers = pytest.importorskip("tokenizers")
    tokenizer = tokenizers.Tokenizer.from_file(str(folder / "tokenizer.json"))
    rows = bits(folder, "model.embed_tokens.weight")
    for token in range(VOCAB_SIZE):
        incomplete = "\ufffd" in tokenizer.decode([token], skip_special_tokens=False)
        silent = token < 3 or incomplete
        assert (rows[token] == 0).all() == silent, (token, tokenizer.id_to_token(token))


def test_the_chat_template_renders(folder: Path) -> None:
    jinja2 = pytest.importorskip("jinja2")
    template = json.loads((folder / "tokenizer_config.json").read_text())["chat_template"]
    messages = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Grüße <b>"}]
    rendered = jinja2.Template(template).render(messages=messages, add_generation_prompt=True)
    assert rendered == (
        "<|im_start|>system\nBe brief.<|im_end|>\n<|im_start|>user\nGrüße <b><|im_end|>\n<|im_start|>assistant\n"
    )
    assert jinja2.Template(template).render(messages=[], add_generation_prompt=False) == ""


# --- damage


@pytest.fixture
def own(folder: Path, tmp_path: Path) -> Path:
    """A copy to damage, in a cache of its own."""
    copy = tmp_path / folder.parent.name / folder.name
    shutil.copytree(folder, copy)
    return copy


@pytest.mark.slow
@pytest.mark.parametrize("file", ["model.safetensors", "config.json", "tokenizer.json", "checksums.json"])
@pytest.mark.parametrize("how", ["changed", "cut", "gone"])
def test_damage_is_seen_and_mended(own: Path, folder: Path, file: str, how: str) -> None:
    content = (own / file).read_bytes()
    if how == "gone":
        (own / file).unlink()
    else:
        middle = len(content) // 2
        changed = content[:middle] + bytes([content[middle] ^ 1]) + content[middle + 1 :]
        (own / file).write_bytes(changed if how == "changed" else content[:middle])
    said: list[str] = []
    assert ensure_model(NAME, own.parents[1], said.append) == own
    assert len(said) == 1
    assert NAME in said[0]
    assert digests(own) == digests(folder)


def test_an_empty_list_of_checksums_vouches_for_nothing(own: Path) -> None:
    (own / "checksums.json").write_text("{}")
    (own / "config.json").write_text("{}")
    ensure_model(NAME, own.parents[1])
    assert json.loads((own / "config.json").read_text())["hidden_size"] == 256


def test_killed_in_the_middle_it_leaves_no_half_model(tmp_path: Path, folder: Path) -> None:
    code = (
        "import sys, time; from pathlib import Path; from common.engines import reference_models as made\n"
        "draw = made._draw_tensors\n"
        "def slowly(model):\n"
        "    for count, tensor in enumerate(draw(model)):\n"
        "        if count == 20: print('half', flush=True); time.sleep(600)\n"
        "        yield tensor\n"
        "made._draw_tensors = slowly\n"
        f"made.ensure_model({NAME!r}, Path({str(tmp_path)!r}))"
    )
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE) as maker:
        assert maker.stdout is not None
        assert maker.stdout.readline() == b"half\n"
        maker.kill()
    final = tmp_path / "models" / folder.name
    assert not final.exists()
    assert digests(ensure_model(NAME, tmp_path)) == digests(folder)


def test_an_error_in_the_middle_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(_: Path) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(reference_models, "_write_tokenizer", fails)
    with pytest.raises(OSError, match="No space left"):
        ensure_model(NAME, tmp_path)
    assert list((tmp_path / "models").iterdir()) == []


@pytest.mark.slow
def test_a_second_maker_at_the_same_time_does_no_harm(tmp_path: Path, folder: Path) -> None:
    """Both find nothing, both make it; whoever comes last must not fail or leave half of it."""
    code = (
        "import sys; from pathlib import Path; from common.engines.reference_models import ensure_model\n"
        f"print('ready', flush=True); sys.stdin.readline(); ensure_model({NAME!r}, Path({str(tmp_path)!r}))"
    )
    command = [sys.executable, "-c", code]
    makers = [
        subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        for _ in range(2)
    ]
    for maker in makers:
        assert maker.stdout is not None
        assert maker.stdout.readline() == "ready\n"
    for maker in makers:
        assert maker.stdin is not None
        maker.stdin.write("go\n")
        maker.stdin.flush()
    for maker in makers:
        _, err = maker.communicate(timeout=30)
        assert maker.returncode == 0, err
    made = tmp_path / "models"
    assert digests(made / folder.name) == digests(folder)
    assert [path.name for path in made.iterdir()] == [folder.name]


def test_the_cache_is_where_the_system_wants_it(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("LAB_CACHE_DIR", str(tmp_path / "here"))
    assert cache_root() == tmp_path / "here"
    monkeypatch.delenv("LAB_CACHE_DIR")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    monkeypatch.setattr(sys, "platform", "linux")
    assert cache_root() == tmp_path / "xdg" / "distributed-inference-lab"
    monkeypatch.setenv("XDG_CACHE_HOME", "")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert cache_root() == tmp_path / ".cache" / "distributed-inference-lab"
    monkeypatch.setattr(sys, "platform", "darwin")
    assert cache_root() == tmp_path / "Library" / "Caches" / "distributed-inference-lab"


def test_an_unknown_name_is_a_key_error(tmp_path: Path) -> None:
    with pytest.raises(KeyError):
        ensure_model("qwen2-1t", tmp_path)
