"""`share`: results in one zip that says nothing about whose machine they are from."""

from __future__ import annotations

import hashlib
import itertools
import json
import re
import sys
import tempfile
import zipfile
from collections.abc import Iterable, Iterator, Sequence
from importlib import metadata
from pathlib import Path
from typing import Any, BinaryIO, cast

import pyarrow

from common.analysis.frames import load_sound
from common.analysis.sharing.privacy import Privacy, names_here, rules_for
from common.analysis.verification.judgement import verified
from common.analysis.wording import about
from common.store.archive import write_archive
from common.store.export import export_for_vllm_plots
from common.store.files import RESULT_NAME, ResultPaths, StoreError, decode, save
from common.store.request_texts import copy_requests, texts_in
from common.store.schema import RESULT, SCHEMA_VERSION, Result, json_schema

README = """Results of the distributed inference lab, version {version}, result schema {schema}.

{results}
{compare}
Read it: python -m common.analysis look --result {archive}{chosen}
Or unzip it into results/ of your checkout: its folder has a name of its own, so nothing of yours is replaced.

Beside each result are the times of every request, where its run left them (.requests, parquet), and the repeats in
the form that `vllm bench sweep plot` reads (.bench). Engine logs, prompts, host and user names, paths, addresses and
keys are left out; what stood in their place reads <path>, <host>, <user>, <address>, <mail>, <key> or <word>.
"""

COMPARE = """
Compare one with a result of your own (name what the two runs are meant to differ in):
  python -m common.analysis compare {archive}{chosen} results/{experiment}/<yours>.json --factor machine
"""


def share_results(paths: Sequence[Path], target: Path, replace: bool = False, hidden: Iterable[str] = ()) -> None:
    """Write the zip and say what is in it; what is printed last is its path.

    Raises:
        StoreError: a result cannot be read, the zip is there already or cannot be written, or something private would
            be in it.
    """
    if target.suffix.lower() != ".zip":
        raise StoreError(f"--to {target}: a zip's name ends with .zip, as in --to share.zip")
    results = {path: load_sound(path) for path in paths}
    privacy = Privacy(rules_for(names_here(), words_of(results.values()), hidden))
    with tempfile.TemporaryDirectory(prefix="lab-share-") as scratch:
        folder = Path(scratch) / "shared"
        lines = [_put(path, result, folder, privacy) for path, result in results.items()]
        names = [line.partition(":")[0] for line in lines]
        chosen = f":{names[0]}" if len(names) > 1 else ""
        first = next(iter(results.values()))
        words = {"archive": privacy.clean(target.name), "chosen": chosen, "experiment": _file_name(first.experiment)}
        compare = "" if verified(first) else COMPARE.format(**words)  # verifying measures no rates to compare
        text = README.format(
            version=_lab_version(), schema=SCHEMA_VERSION, results="\n".join(lines), compare=compare, **words
        )
        (folder / "README.txt").write_text(text)
        folder.rename(Path(scratch) / f"shared-{_digest(folder)}")
        write_archive(Path(scratch), target, lambda archive: verify(archive, privacy), replace)
    for line in lines:
        sys.stdout.write(f"{line}\n")
    counts = ", ".join(f"{count} x {kind}" for kind, count in sorted(privacy.replaced.items()))
    sys.stdout.write(f"replaced: {counts or 'nothing, there was nothing private'}\n{target.absolute()}\n")


def words_of(results: Iterable[Result]) -> set[str]:
    """Words that results use themselves: a user or a host that is called `fixed` or `epyc` must not take them away."""
    texts = [json_schema()]
    for result in results:
        config, environment = result.config, result.environment
        texts += [result.experiment, *_keys(config, config.get("engine_settings"), config.get("model_shape"))]
        texts += _keys(environment, *(part for name, part in environment.items() if name != "settings"))
        texts += [str(device["name"]) for device in environment.get("devices", [])]
        for case in result.cases:
            texts += [case.id, case.curve, *(check.name for check in case.checks)]
            texts += _keys(case.engine, case.engine.get("settings"), case.monitor, *case.repeats)
    return {word for text in texts for word in re.findall(r"[a-z0-9]+", text.lower())}


def verify(archive: Path, privacy: Privacy) -> None:
    """Look through a finished zip once more, as it will leave.

    Raises:
        StoreError: something private is in it; the file and the kind are named.
    """
    with zipfile.ZipFile(archive) as opened:
        for info in opened.infolist():
            kinds = privacy.found(info.filename)
            if info.filename.endswith(".json"):
                kinds += privacy.found_json(json.loads(opened.read(info)))
            elif info.filename.endswith(".parquet"):
                with opened.open(info) as file:
                    kinds += [kind for text in texts_in(cast(BinaryIO, file)) for kind in privacy.found(text)]
            else:
                kinds += privacy.found(opened.read(info).decode())
            if kinds:
                what = ", ".join(sorted(set(kinds)))
                raise StoreError(
                    f"{info.filename} would still hold a {what}: no zip was written; leave that result out"
                )


def _put(path: Path, result: Result, folder: Path, privacy: Privacy) -> str:
    """Write a clean result and what stands beside it; a line that describes it."""
    document: dict[str, Any] = privacy.clean_json(RESULT.dump_python(result, mode="json"))
    document["resume_key"] = ""  # made of folders too, and nobody goes on with a shared run
    document["run_id"] = _file_name(document["run_id"])
    if not RESULT_NAME.fullmatch(f"{document['run_id']}.json"):
        raise StoreError(f"{path} has no run id of the form <UTC>-<machine>-<model>; it would not be found again")
    clean = decode(json.dumps(document).encode(), str(path))
    paths = ResultPaths(_free(folder / _file_name(clean.experiment) / f"{clean.run_id}.json"))
    paths.json.parent.mkdir(parents=True, exist_ok=True)
    save(clean, paths.json)
    export_for_vllm_plots(clean, paths.bench)
    for source in sorted(ResultPaths(path).requests.glob("*.parquet")):
        target = _free(paths.requests / f"{_file_name(privacy.clean(source.stem))}.parquet")
        try:
            copy_requests(source, target, privacy.clean)
        except (OSError, pyarrow.ArrowException) as error:
            raise StoreError(
                f"cannot read {source}: truncated or no parquet; move it away to share the rest"
            ) from error
    return f"{paths.json.name}: {clean.experiment}, {about(clean)}"


def _free(path: Path) -> Path:
    """Two results can have one name, when two machines of a kind began in the same second."""
    others = (path.with_name(f"{path.stem}-{count}{path.suffix}") for count in itertools.count(2))
    return next(one for one in itertools.chain([path], others) if not one.exists())


def _file_name(text: str) -> str:
    """Stand-ins have signs that no file name may have everywhere."""
    return re.sub(r"[^\w.+-]+", "", text) or "unnamed"


def _keys(*values: object) -> Iterator[str]:
    for value in values:
        if isinstance(value, dict):
            yield from value


def _digest(folder: Path) -> str:
    content = hashlib.sha256()
    for path in sorted(path for path in folder.rglob("*") if path.is_file()):
        content.update(path.relative_to(folder).as_posix().encode() + path.read_bytes())
    return content.hexdigest()[:8]


def _lab_version() -> str:
    try:
        return metadata.version("distributed-inference-lab")
    except metadata.PackageNotFoundError:  # run from a checkout that was never installed
        return "unknown"
