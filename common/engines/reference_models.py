"""Reference models: small, seeded, made on the spot, so that no experiment needs a download.

Each is a real Hugging Face folder (config, safetensors, byte-level BPE tokenizer, chat template) that vLLM
loads through the same code as any other model. The text they write is gibberish; the work they do is not.

The embedding rows of special tokens and of bytes beyond ASCII are zero. Embeddings are tied, so such a token's
logit is exactly 0 and greedy decoding, which takes the largest of ten thousand random logits, never picks it:
no answer ends early, and no token is held back by the detokenizer as half a UTF-8 character.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
import shutil
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

VOCAB_SIZE = 10_240  # vLLM's own latency benchmark draws token ids below 10,000
MAX_POSITIONS = 4_096
SPECIAL_TOKENS = ("<|endoftext|>", "<|im_start|>", "<|im_end|>")
CHAT_TEMPLATE = (
    "{% for message in messages %}<|im_start|>{{ message['role'] }}\n{{ message['content'] }}<|im_end|>\n"
    "{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
ABANDONED_S = 3600.0
LAYOUT_VERSION = 1  # raise it when the bytes of a model change, so that caches of the old one are left alone


@dataclass(frozen=True)
class ReferenceModel:
    """The shape of a reference model; field names follow Hugging Face configs."""

    name: str
    hidden_size: int
    intermediate_size: int
    num_hidden_layers: int
    num_attention_heads: int
    num_key_value_heads: int
    head_dim: int
    init_std: float
    num_experts: int = 0
    num_experts_per_tok: int = 0
    seed: int = 0

    @property
    def is_moe(self) -> bool:
        """Whether the MLP is a mixture of experts."""
        return self.num_experts > 0

    def config(self) -> dict[str, Any]:
        """The model's config.json."""
        shared: dict[str, Any] = {
            "hidden_size": self.hidden_size,
            "intermediate_size": self.intermediate_size,
            "num_hidden_layers": self.num_hidden_layers,
            "num_attention_heads": self.num_attention_heads,
            "num_key_value_heads": self.num_key_value_heads,
            "head_dim": self.head_dim,
            "hidden_act": "silu",
            "rms_norm_eps": 1e-6,
            "rope_theta": 10_000.0,
            "max_position_embeddings": MAX_POSITIONS,
            "vocab_size": VOCAB_SIZE,
            "tie_word_embeddings": True,
            "use_sliding_window": False,
            "bos_token_id": 0,
            "eos_token_id": 0,
            "torch_dtype": "bfloat16",
        }
        if not self.is_moe:
            return {"architectures": ["Qwen2ForCausalLM"], "model_type": "qwen2", **shared}
        return {
            "architectures": ["Qwen3MoeForCausalLM"],
            "model_type": "qwen3_moe",
            **shared,
            "num_experts": self.num_experts,
            "num_experts_per_tok": self.num_experts_per_tok,
            "moe_intermediate_size": self.intermediate_size,
            "decoder_sparse_step": 1,
            "mlp_only_layers": [],
            "norm_topk_prob": True,
            "attention_bias": False,
        }

    def tensor_shapes(self) -> Iterator[tuple[str, tuple[int, ...]]]:
        """(name, shape) of every tensor, in the fixed order in which they are drawn."""
        hidden, heads, kv_heads = self.hidden_size, self.num_attention_heads, self.num_key_value_heads
        yield "model.embed_tokens.weight", (VOCAB_SIZE, hidden)
        for index in range(self.num_hidden_layers):
            layer = f"model.layers.{index}"
            yield f"{layer}.input_layernorm.weight", (hidden,)
            yield f"{layer}.post_attention_layernorm.weight", (hidden,)
            for projection, rows in (("q", heads), ("k", kv_heads), ("v", kv_heads)):
                yield f"{layer}.self_attn.{projection}_proj.weight", (rows * self.head_dim, hidden)
                if not self.is_moe:
                    yield f"{layer}.self_attn.{projection}_proj.bias", (rows * self.head_dim,)
            yield f"{layer}.self_attn.o_proj.weight", (hidden, heads * self.head_dim)
            if self.is_moe:
                yield f"{layer}.self_attn.q_norm.weight", (self.head_dim,)
                yield f"{layer}.self_attn.k_norm.weight", (self.head_dim,)
                yield f"{layer}.mlp.gate.weight", (self.num_experts, hidden)
                for expert in range(self.num_experts):
                    yield from self._mlp_shapes(f"{layer}.mlp.experts.{expert}")
            else:
                yield from self._mlp_shapes(f"{layer}.mlp")
        yield "model.norm.weight", (hidden,)

    def _mlp_shapes(self, prefix: str) -> Iterator[tuple[str, tuple[int, ...]]]:
        yield f"{prefix}.gate_proj.weight", (self.intermediate_size, self.hidden_size)
        yield f"{prefix}.up_proj.weight", (self.intermediate_size, self.hidden_size)
        yield f"{prefix}.down_proj.weight", (self.hidden_size, self.intermediate_size)


# 126M counts the layers and a 2,048-word embedding; the larger vocabulary here makes it 132,159,488.
REFERENCE_MODELS = {
    model.name: model
    for model in (
        ReferenceModel("qwen2-126m", 1024, 4096, 8, 16, 4, 64, init_std=0.05),
        ReferenceModel("qwen2-9m", 256, 1024, 8, 8, 4, 32, init_std=0.2),
        ReferenceModel("qwen3-moe-16m", 256, 512, 4, 8, 4, 32, init_std=0.2, num_experts=8, num_experts_per_tok=2),
    )
}


def cache_root() -> Path:
    """Where reference models are kept: the user's cache folder, or LAB_CACHE_DIR."""
    if override := os.environ.get("LAB_CACHE_DIR"):
        return Path(override)
    if sys.platform == "darwin":
        return Path.home() / "Library" / "Caches" / "distributed-inference-lab"
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "distributed-inference-lab"


def ensure_model(name: str, root: Path | None = None, say: Callable[[str], None] = lambda _: None) -> Path:
    """Return the folder of a reference model, making it if it is missing or damaged.

    Args:
        name: a key of `REFERENCE_MODELS`.
        root: cache folder; `cache_root()` by default.
        say: told, in one line, when a model has to be made.

    Raises:
        KeyError: unknown name.
    """
    model = REFERENCE_MODELS[name]
    folder = (root or cache_root()) / "models" / f"{name}-v{LAYOUT_VERSION}"
    if _is_intact(folder):
        return folder
    say(f"making the reference model {name} in {folder}")
    folder.parent.mkdir(parents=True, exist_ok=True)
    for abandoned in folder.parent.glob(f".{name}-*"):
        if time.time() - abandoned.stat().st_mtime > ABANDONED_S:  # its maker was killed
            shutil.rmtree(abandoned, ignore_errors=True)
    # Made beside its final place and moved in one step: a killed or second maker never leaves half a model.
    with tempfile.TemporaryDirectory(dir=folder.parent, prefix=f".{name}-") as scratch:
        _write_model(model, Path(scratch))
        shutil.rmtree(folder, ignore_errors=True)
        try:
            (Path(scratch) / "model").rename(folder)
        except OSError:  # another maker was quicker
            if not _is_intact(folder):
                raise
    return folder


def _is_intact(folder: Path) -> bool:
    try:
        recorded = json.loads((folder / "checksums.json").read_text())
        return bool(recorded) and all(_sha256(folder / file) == digest for file, digest in recorded.items())
    except (OSError, ValueError):
        return False


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _write_model(model: ReferenceModel, scratch: Path) -> None:
    folder = scratch / "model"
    folder.mkdir()
    _write_safetensors(model, folder / "model.safetensors")
    (folder / "config.json").write_text(json.dumps(model.config(), indent=2))
    (folder / "generation_config.json").write_text(json.dumps({"bos_token_id": 0, "eos_token_id": 0}))
    _write_tokenizer(folder)
    checksums = {path.name: _sha256(path) for path in sorted(folder.iterdir())}
    (folder / "checksums.json").write_text(json.dumps(checksums, indent=2))


def _write_safetensors(model: ReferenceModel, path: Path) -> None:
    """Header length (8 bytes, little endian), JSON header, tensors: https://github.com/huggingface/safetensors."""
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    end = 0
    for name, shape in model.tensor_shapes():
        begin, end = end, end + 2 * math.prod(shape)
        header[name] = {"dtype": "BF16", "shape": list(shape), "data_offsets": [begin, end]}
    encoded = json.dumps(header).encode()
    encoded += b" " * (-len(encoded) % 8)
    with path.open("wb") as file:
        file.write(len(encoded).to_bytes(8, "little") + encoded)
        for _, values in _draw_tensors(model):
            file.write(values.tobytes())


def _draw_tensors(model: ReferenceModel) -> Iterator[tuple[str, npt.NDArray[np.uint16]]]:
    generator = np.random.default_rng(model.seed)
    silent_rows = _silent_token_ids()
    for name, shape in model.tensor_shapes():
        if name.endswith("norm.weight"):
            values = np.ones(shape, np.float32)
        else:
            values = generator.standard_normal(shape, np.float32) * np.float32(model.init_std)
        if name == "model.embed_tokens.weight":
            values[silent_rows] = 0.0
        yield name, _to_bfloat16(values)


def _to_bfloat16(values: npt.NDArray[np.float32]) -> npt.NDArray[np.uint16]:
    """Round to nearest even, as hardware does; bfloat16 is the upper half of float32."""
    bits = values.view(np.uint32)
    return ((bits + 0x7FFF + ((bits >> 16) & 1)) >> 16).astype(np.uint16)


def _byte_symbols() -> list[str]:
    """GPT-2's byte alphabet: printable bytes stand for themselves, the others for 256, 257, ..."""
    printable = {*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)}
    shifted = iter(range(256, 512))
    return [chr(byte) if byte in printable else chr(next(shifted)) for byte in range(256)]


def _vocabulary() -> tuple[dict[str, int], list[tuple[str, str]]]:
    """Special tokens, the 256 bytes, then pairs and triples of letters until the vocabulary is full."""
    symbols = _byte_symbols()
    letters = "etaoinshrdlcumwfgypbvkjxqz"
    tokens = [*SPECIAL_TOKENS, *symbols]
    merges: list[tuple[str, str]] = []
    space = symbols[ord(" ")]
    pairs = [(first, second) for first in (*letters, space) for second in letters]
    triples = [(first + second, third) for first, second in pairs for third in letters]
    for merge in (*pairs, *triples):
        if len(tokens) == VOCAB_SIZE:
            break
        merges.append(merge)
        tokens.append("".join(merge))
    return {token: index for index, token in enumerate(tokens)}, merges


def _silent_token_ids() -> list[int]:
    vocabulary, _ = _vocabulary()
    beyond_ascii = [vocabulary[symbol] for symbol in _byte_symbols()[0x80:]]
    return [vocabulary[token] for token in SPECIAL_TOKENS] + beyond_ascii


def _write_tokenizer(folder: Path) -> None:
    from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers

    vocabulary, merges = _vocabulary()
    tokenizer = Tokenizer(models.BPE(vocab=vocabulary, merges=merges))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens([AddedToken(token, special=True) for token in SPECIAL_TOKENS])
    tokenizer.save(str(folder / "tokenizer.json"))
    settings = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "bos_token": SPECIAL_TOKENS[0],
        "eos_token": SPECIAL_TOKENS[0],
        "pad_token": SPECIAL_TOKENS[0],
        "model_max_length": MAX_POSITIONS,
        "clean_up_tokenization_spaces": False,
        "chat_template": CHAT_TEMPLATE,
    }
    (folder / "tokenizer_config.json").write_text(json.dumps(settings, indent=2))
