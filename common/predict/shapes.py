"""Dimensions of common open models, found by a model's name; any other by its config.json."""

from __future__ import annotations

import difflib
import json
import re
from collections.abc import Mapping
from functools import cache
from typing import Any

from common.core.model_shape import ModelShape
from common.predict.hardware import DATA

GUESSED_FORM = (128, 1 / 3.5)  # head size, and hidden size over MLP width, of a model known by its size alone
SPLIT_BY = 8  # KV heads of a guessed model, and what divides its heads and layers
UNKNOWN_CONTEXT = 131072  # tokens, of a model whose context is not kept

FOUR_BITS = 0.56  # bytes of a weight of four bits, with a scale for every 32 or so

DTYPES = (
    *("auto", "bfloat16", "bf16", "float16", "fp16", "half", "float32", "fp32", "float", "fp8", "int8", "w8a8"),
    *("fp4", "nvfp4", "mxfp4", "int4", "w4a16", "awq", "gptq"),
)


class UnknownModelError(ValueError):
    """Neither the name nor a size in it says what the model looks like; the message names the nearest three."""


def find_shape(name: str) -> tuple[ModelShape, bool]:
    """The shape that a name means, and whether it is only guessed from a size in the name ("Foo-13B").

    Raises:
        UnknownModelError: the name says nothing.
    """
    text = name.lower()
    for entry in _entries():
        if re.search(entry["pattern"], text):
            return _shape(entry, _context(text)), False
    size = re.search(r"(\d+(?:\.\d+)?)\s?b\b", text)
    if size and 0 < float(size.group(1)) < 5000:
        return shape_of_size(float(size.group(1)) * 1e9), True
    near = difflib.get_close_matches(name, [entry["name"] for entry in _entries()], 3, 0)
    raise UnknownModelError(
        f"model '{name}' is unknown; the nearest known are {', '.join(near)}, or give a config.json"
    )


def check_dtype(dtype: str) -> None:
    """Check that a precision is one whose bytes are known.

    Raises:
        ValueError: it is not; the message lists those that are.
    """
    if dtype.lower() not in DTYPES:
        raise ValueError(f"--dtype {dtype[:80]}: unknown precision; known are {', '.join(DTYPES)}")


def bytes_per_weight(name: str, dtype: str, own: float | None = None) -> float:
    """Bytes per weight: from the model's name where that says it, else from the dtype as written.

    Where neither does (`auto`, or nothing), those of its checkpoint: `own`, or what is kept of the name.
    """
    for text in (name.lower(), dtype.lower().partition("(")[0]):
        if re.search(r"gpt-?oss|fp4|int4|awq|gptq|4bit|4-bit|(?<![a-z0-9])w4", text):
            return FOUR_BITS
        if re.search(r"fp8|int8|(?<![a-z0-9])w8|8bit", text):
            return 1.0
    if dtype.lower() in ("", "auto"):
        return own or _own_bytes(name.lower())
    return 4.0 if re.search(r"float32|fp32|^float$", dtype.lower()) else 2.0


def bytes_of_config(config: Mapping[str, Any]) -> float:
    """Bytes per weight of a checkpoint, as its config.json's quantization_config says; two where there is none.

    Raises:
        ValueError: it is of a form that is not known.
    """
    nested = config.get("text_config")
    language = nested if isinstance(nested, Mapping) else {}
    given = config.get("quantization_config") or language.get("quantization_config")
    if not given:
        return 2.0
    words = json.dumps(given).lower()
    bits = [int(number) for number in re.findall(r'"(?:num_bits|bits|w_bit)": ?(\d+)', words)]
    if bits and min(bits) > 0:
        return FOUR_BITS if min(bits) == 4 else min(bits) / 8
    if re.search(r'"load_in_8bit": ?true|fp8|e4m3|e5m2|int8', words) and "fp4" not in words:
        return 1.0
    if re.search(r'"load_in_4bit": ?true|fp4|int4|awq|gptq', words):
        return FOUR_BITS
    raise ValueError("config.json's quantization_config is of an unknown form: say the precision with --dtype")


def _own_bytes(text: str) -> float:
    if re.search(r"bf16|bfloat16|fp16", text):
        return 2.0
    entry = next((entry for entry in _entries() if re.search(entry["pattern"], text)), {})
    return float(entry.get("bytes", 2.0))


def _context(text: str) -> int:
    known = (entry["positions"] for entry in _entries("contexts") if re.search(entry["pattern"], text))
    return int(next(known, UNKNOWN_CONTEXT))


def _shape(entry: dict[str, Any], positions: int = UNKNOWN_CONTEXT) -> ModelShape:
    return ModelShape(
        hidden_size=entry["h"],
        intermediate_size=entry["ff"],
        num_hidden_layers=entry["L"],
        num_attention_heads=entry["heads"],
        num_key_value_heads=entry["kv"],
        head_dim=entry["hd"],
        vocab_size=entry["V"],
        max_position_embeddings=positions,
        tie_word_embeddings=entry.get("tied", False),
        num_experts=entry.get("E", 0),
        num_experts_per_tok=entry.get("k", 0),
        dtype="bfloat16",
    )


def shape_of_size(parameters: float) -> ModelShape:
    """A dense model of this size in Llama's proportions: the hidden size is 128 times the number of layers.

    Both are multiples of 8 from 8 layers on, as those of such models are: it can be split over 2, 4 and 8 devices.
    """
    head, narrow = GUESSED_FORM
    per_hidden = 2 * 1.25 + 3 / narrow
    layers = max(round((parameters / (per_hidden * head**2)) ** (1 / 3)), 1)
    layers = layers if layers < SPLIT_BY else SPLIT_BY * round(layers / SPLIT_BY)
    hidden, kv = layers * head, min(layers, SPLIT_BY)
    return _shape(
        {"h": hidden, "ff": int(hidden / narrow), "L": layers, "heads": layers, "kv": kv, "hd": head, "V": 64000}
    )


@cache
def _entries(kind: str = "models") -> list[dict[str, Any]]:
    entries: list[dict[str, Any]] = json.loads((DATA / "models.json").read_text(encoding="utf-8"))[kind]
    return entries
