"""A model's folder: a reference model made on the spot, a folder of the user's, or a download from the hub.

Downloading is a phase of its own, before any engine: access and disk are checked first, progress is shown, and
afterwards engines run offline.
"""

from __future__ import annotations

import difflib
import json
import re
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from itertools import chain
from pathlib import Path

from tokenizers import Tokenizer

from common.core.model_shape import ModelShape
from common.engines.reference_models import REFERENCE_MODELS, ensure_model

WEIGHTS = ("*.safetensors", "pytorch_model*.bin", "consolidated*.pth", "*.gguf")
TOKENIZERS = ("tokenizer.json", "tokenizer.model", "vocab.json", "tekken.json")
READ_AS_JSON = ("tokenizer.json", "tokenizer_config.json", "*.safetensors.index.json")
MOST_HEADER_BYTES = 100_000_000  # safetensors' own limit
HUB_TIMEOUT_S = 10.0
HUB_ID = re.compile(r"[\w.-]+/[\w.-]+")


class ModelError(ValueError):
    """A model is not there or not usable; the message is one line and ends with the remedy."""


@dataclass(frozen=True)
class Model:
    """A model that an engine can load."""

    name: str
    folder: Path
    shape: ModelShape


def default_model(device_kind: str, devices: int) -> str:
    """What is measured when nothing is asked for. 28 heads of the 7B model do not divide by 8, 32 of the 8B one do."""
    if device_kind == "cpu":
        return "qwen2-126m"
    return "Qwen/Qwen2.5-7B-Instruct" if devices < 8 else "Qwen/Qwen3-8B"


def find_model(name: str, say: Callable[[str], None], download: bool = True) -> Model:
    """Make, find or download a model.

    Args:
        name: reference model, folder, or hub id.
        say: told about anything that takes time.
        download: without it only a hub model's configuration is fetched, and `folder` may hold no weights.

    Raises:
        ModelError: unknown, incomplete, gated, or too large for the disk.
    """
    if name in REFERENCE_MODELS:
        return _open(name, ensure_model(name, say=say))
    folder = Path(name).expanduser()
    if folder.is_dir():
        try:
            _check_complete(folder)
        except OSError as error:  # a link to nothing, or a file that is somebody else's
            raise ModelError(f"{error.filename} cannot be read: {error.strerror}; download the model again") from error
        return _open(folder.resolve().name, folder.resolve())
    if name.startswith((".", "/", "~")):
        raise ModelError(f"there is no folder {name}: check the path, or give a hub id (owner/name)")
    if HUB_ID.fullmatch(name):
        return _open(name, _from_hub(name, say) if download else _config_from_hub(name))
    near = difflib.get_close_matches(name, REFERENCE_MODELS, n=1)
    hint = f"did you mean {near[0]}?" if near else "give a folder, a hub id (owner/name)"
    raise ModelError(f"unknown model '{name}': {hint} or one of {', '.join(REFERENCE_MODELS)}")


def token_counter(model: Model, of_a_prompt: bool = True) -> Callable[[str], int]:
    """Counts a text's tokens as the engine does; the tokenizer is read at the first text.

    A prompt gets the model's special tokens, an answer is counted without. The counter raises ModelError where the
    model has no `tokenizer.json`.
    """
    read: list[Tokenizer] = []

    def count(text: str) -> int:
        if not read:
            read.append(_tokenizer(model))
        return len(read[0].encode(text, add_special_tokens=of_a_prompt).ids)

    return count


def _tokenizer(model: Model) -> Tokenizer:
    path = model.folder / "tokenizer.json"
    if not path.is_file() and HUB_ID.fullmatch(model.name):  # before a dry run only the configuration was fetched
        from huggingface_hub import hf_hub_download

        with _hub_errors_explained(model.name):
            path = Path(hf_hub_download(model.name, "tokenizer.json"))
    try:
        tokenizer = Tokenizer.from_file(str(path))
    except Exception as error:
        raise ModelError(
            f"{path} cannot be used to count the tokens of texts: {error}; give prompts as token ids, or a model with a"
            " tokenizer.json"
        ) from error
    tokenizer.no_truncation()  # some are saved with the cut of their training
    tokenizer.no_padding()
    return tokenizer


def shape_of(folder: Path) -> ModelShape:
    """A model's dimensions, by the configuration in its folder.

    Raises:
        OSError: there is none.
        ValueError: it is no configuration of a model.
    """
    return ModelShape.from_config(json.loads((folder / "config.json").read_text()))


def _open(name: str, folder: Path) -> Model:
    try:
        return Model(name, folder, shape_of(folder))
    except (OSError, ValueError) as error:
        raise ModelError(f"{folder}/config.json cannot be used: {error}; download the model again") from error


def _check_complete(folder: Path) -> None:
    for path in chain.from_iterable(map(folder.glob, READ_AS_JSON)):
        try:
            json.loads(path.read_bytes())
        except ValueError as error:
            raise ModelError(f"{path} cannot be read: {error}; download the model again") from error
    if missing := _missing(folder):
        raise ModelError(f"{folder} has no {' and no '.join(missing)}; point --model to a complete model folder")
    for path in sorted(folder.glob("*.safetensors")):
        held, whole = path.stat().st_size, _whole_bytes(path)
        if whole is None or held < whole:
            lacks = "has no header" if whole is None else f"holds {held:,} of {whole:,} bytes"
            raise ModelError(f"{path} is cut off or damaged: it {lacks}; download the model again")


def _whole_bytes(path: Path) -> int | None:
    """Size of a safetensors file by its own header (form in `reference_models`); None where it has none."""
    with path.open("rb") as file:
        length = int.from_bytes(file.read(8), "little")
        if length > MOST_HEADER_BYTES:
            return None
        try:
            tensors = json.loads(file.read(length))
            ends = [int(one["data_offsets"][1]) for name, one in tensors.items() if name != "__metadata__"]
        except (ValueError, LookupError, TypeError, AttributeError):
            return None
    return 8 + length + max(ends, default=0)


def _missing(folder: Path) -> list[str]:
    """What a model folder lacks: configuration, weights (every shard of them), tokenizer."""
    missing = []
    if not (folder / "config.json").is_file():
        missing.append("config.json")
    if not any(path for pattern in WEIGHTS for path in folder.glob(pattern)):
        missing.append("weights (*.safetensors)")
    if not any((folder / name).is_file() for name in TOKENIZERS):
        missing.append("tokenizer (tokenizer.json)")
    for index in folder.glob("*.safetensors.index.json"):
        shards = set(json.loads(index.read_text())["weight_map"].values())
        missing += sorted(shard for shard in shards if not (folder / shard).is_file())
    return missing


def _config_from_hub(name: str) -> Path:
    from huggingface_hub import HfApi, hf_hub_download, try_to_load_from_cache

    if isinstance(cached := try_to_load_from_cache(name, "config.json"), str):
        return Path(cached).parent
    with _hub_errors_explained(name):
        HfApi().model_info(name, timeout=HUB_TIMEOUT_S)  # fails at once where a download would retry for a while
        return Path(hf_hub_download(name, "config.json")).parent


def _from_hub(name: str, say: Callable[[str], None]) -> Path:
    from huggingface_hub import HfApi, constants, snapshot_download
    from huggingface_hub.errors import LocalEntryNotFoundError

    patterns = ["*.json", "*.safetensors", "*.txt", "*.model", "*.jinja"]
    with suppress(LocalEntryNotFoundError):
        cached = Path(snapshot_download(name, allow_patterns=patterns, local_files_only=True))
        if not _missing(cached):  # an earlier dry run, or a broken download, leaves half a model
            return cached
    say(f"{name} is not in the local cache: asking the hub")
    with _hub_errors_explained(name):
        files = HfApi().model_info(name, files_metadata=True, timeout=HUB_TIMEOUT_S).siblings or []
        size = sum(file.size or 0 for file in files if file.rfilename.endswith((".safetensors", ".json")))
        cache = Path(constants.HF_HOME)
        cache.mkdir(parents=True, exist_ok=True)
        free = shutil.disk_usage(cache).free
        if size > free:
            raise ModelError(
                f"{name} takes {size / 1e9:.1f} GB and {cache} has {free / 1e9:.1f} GB free; free some, or set HF_HOME"
                " to a larger disk"
            )
        say(f"downloading {name}: {size / 1e9:.1f} GB into {cache}")
        return Path(snapshot_download(name, allow_patterns=patterns))


@contextmanager
def _hub_errors_explained(name: str) -> Iterator[None]:
    """Turns what the hub's client raises into one line with the remedy.

    Anything that is not about the model itself is a failed connection: the client's HTTP library, and with it the
    exceptions for that, changes between its versions.
    """
    from huggingface_hub.errors import GatedRepoError, RepositoryNotFoundError

    try:
        yield
    except ModelError:
        raise
    except GatedRepoError as error:
        remedy = "accept its licence on the hub, then set HF_TOKEN (read access) in the environment"
        raise ModelError(f"{name} is gated: {remedy}") from error
    except RepositoryNotFoundError as error:
        remedy = "check the spelling; if it is private, set HF_TOKEN in the environment"
        raise ModelError(f"the hub knows no model {name}: {remedy}") from error
    except Exception as error:
        remedy = f"check the network, give a folder, or use a reference model ({', '.join(REFERENCE_MODELS)})"
        raise ModelError(f"{name} is not in the local cache and the hub cannot be reached: {remedy}") from error
