"""The prediction as a user runs it, good and bad input."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from tests.experiment.script import SCRIPTS, Script, load_script

REFERENCE = SCRIPTS.parent / "results" / "reference" / "2x1core-amd-epyc" / "benchmark_scaling"


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Script:
    """The script, from another folder."""
    monkeypatch.chdir("/")
    return Script(load_script("predict_scaling"), monkeypatch, capsys)


def test_the_card_ends_in_one_line_of_json(run: Script) -> None:
    done = run(
        "--model", "Qwen/Qwen3-32B", "--gpu", "H100", "--usd-per-hour", "21.52", "--measured", "tp1=700", "tp2=1190"
    )
    assert done.code == 0, done.err
    last = json.loads(done.out.splitlines()[-1])
    plans = [one["plan"] for one in last["plans"]]
    assert {"tp1", "tp2", "pp2", "tp1x2", "tp8"} <= set(plans)
    assert last["recommended"] in plans
    assert "measured 1190, predicted from the others" in done.out
    assert f"Recommended: {last['recommended']}: " in done.out
    (line,) = [text for text in done.out.splitlines() if text.startswith("tp2 ")]
    (tp2,) = [one["speed"]["output_tokens_s"]["value"] for one in last["plans"] if one["plan"] == "tp2"]
    assert f" {21.52 / 8 * 2 / 3600 * 1e6 / tp2:.2f} [" in line, "two of the eight devices that the price is of"
    assert "of a machine of 8 devices at $21.52 an hour" in done.out
    assert last["measure_next"] not in ("tp1", "tp2", None)


@pytest.mark.parametrize(("count", "said"), [("1", "1 request in flight"), ("1000000", "1,000,000 requests in flight")])
def test_a_load_in_words(run: Script, count: str, said: str) -> None:
    assert f" {said};" in run("--model", "Qwen3-8B", "--gpu", "H100", "--concurrency", count).out


def test_experts_over_devices_get_bytes_and_no_claim(run: Script) -> None:
    done = run("--model", "Qwen3-30B-A3B", "--gpu", "H100", "--counts", "2", "4")
    assert done.code == 0, done.err
    (line,) = [text for text in done.out.splitlines() if text.startswith("tp4ep")]
    assert "no throughput claim" in line
    last = json.loads(done.out.splitlines()[-1])
    (experts,) = [one for one in last["plans"] if one["plan"] == "tp4ep"]
    assert experts["speed"] is None
    assert experts["bytes_per_token"] > 0
    assert experts["memory"]["weight_bytes"] > 0
    claimed = run("--model", "Qwen3-30B-A3B", "--gpu", "H100", "--counts", "2", "4", "--measured", "tp2ep=2500")
    (experts,) = [one for one in json.loads(claimed.out.splitlines()[-1])["plans"] if one["plan"] == "tp4ep"]
    assert experts["speed"]["output_tokens_s"]["value"] > 0


def test_after_a_run_predictions_stand_beside_what_was_measured(run: Script) -> None:
    (result,) = REFERENCE.glob("*.json")
    done = run("--measured", str(result))
    assert done.code == 0, done.err
    found = json.loads(done.out.splitlines()[-1])
    assert {one["plan"] for one in found if one["calibrates"]} == {"tp1", "tp2"}
    held = [one for one in found if not one["calibrates"]]
    assert {one["plan"] for one in held} == {"tp1x2"}
    assert all(one["error"] == pytest.approx(one["predicted"] / one["measured"] - 1) for one in held)
    assert "cases predicted from tp1, tp2: median error" in done.out


def test_what_a_result_says_itself_is_not_taken_from_options(run: Script) -> None:
    (result,) = REFERENCE.glob("*.json")
    done = run("--measured", str(result), "--gpu", "H100", "--input-tokens", "9")
    assert done.code == 0
    assert done.err == "note: --gpu, --input-tokens not used: a result says model, devices and loads itself\n"


def test_a_measurement_of_a_plan_that_is_left_out_counts_for_nothing_and_that_is_said(run: Script) -> None:
    arguments = ("--model", "Qwen3-30B-A3B", "--gpu", "L40S", "--counts", "2", "4")
    plain, done = run(*arguments), run(*arguments, "--measured", "tp1ep=2500")
    assert done.code == 0, done.err
    assert "--measured tp1ep=2500 counts for nothing: tp1ep is left out, as below" in done.out
    assert "tp1ep      left out: tp1ep has one device for all experts" in done.out
    assert done.out.count("no throughput claim") == plain.out.count("no throughput claim") == 2


def test_small_rates_are_not_shown_as_none(run: Script) -> None:
    done = run("--model", "Llama-3-8B", "--gpu", "H100 SXM", "--counts", "8", "--input-tokens", "4000000")
    assert done.code == 0, done.err
    assert " 0 [0, 0]" not in done.out
    assert "Recommended: tp8: 0 tok/s" not in done.out and "Recommended: pp8: 0 tok/s" not in done.out


def test_a_config_file_serves_as_a_model(run: Script, tmp_path: Path) -> None:
    config = {"hidden_size": 896, "intermediate_size": 4864, "num_hidden_layers": 24, "num_attention_heads": 14}
    config |= {"num_key_value_heads": 2, "vocab_size": 151936, "max_position_embeddings": 32768}
    (tmp_path / "config.json").write_text(json.dumps(config))
    done = run("--model", str(tmp_path), "--gpu", "L40S", "--counts", "1", "2", "4")
    assert done.code == 0, done.err
    assert ", weights of 2 bytes: " in done.out.splitlines()[0]
    (tmp_path / "config.json").write_text(json.dumps(config | {"quantization_config": {"quant_method": "fp8"}}))
    small = run("--model", str(tmp_path), "--gpu", "L40S", "--counts", "1")
    assert ", weights of 1 bytes: " in small.out.splitlines()[0]
    wide = run("--model", str(tmp_path), "--gpu", "L40S", "--counts", "1", "--dtype", "bfloat16")
    assert ", weights of 2 bytes: " in wide.out.splitlines()[0]
    assert "tp4 does not divide this model (14 attention heads, 2 KV heads); the nearest that do: tp2" in done.out
    assert "Low confidence" in done.out
    folder = tmp_path / "int4-w4a16"
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps(config))
    for dtype in ("auto", "bfloat16"):
        named = run("--model", str(folder), "--gpu", "L40S", "--counts", "1", "--dtype", dtype)
        assert ", weights of 2 bytes: " in named.out.splitlines()[0], "what a folder is called says nothing"


def test_no_longer_prompt_is_advised_than_the_model_takes(run: Script, tmp_path: Path) -> None:
    config = {"hidden_size": 896, "intermediate_size": 4864, "num_hidden_layers": 24, "num_attention_heads": 14}
    config |= {"num_key_value_heads": 2, "vocab_size": 151936, "max_position_embeddings": 32768}
    (tmp_path / "config.json").write_text(json.dumps(config))
    done = run("--model", str(tmp_path), "--gpu", "L40S", "--input-tokens", "100000000", "--output-tokens", "768")
    assert done.code == 2
    assert "--input-tokens up to 32000 would fit" in done.err


def test_rows_of_an_invalid_client_are_named(run: Script, tmp_path: Path) -> None:
    (reference,) = REFERENCE.glob("*.json")
    content = json.loads(reference.read_text())
    verdict = {"word": "INVALID", "reasons": ["the event loop stood still"], "remedy": "measure again"}
    for case in content["cases"]:
        if case["id"] == "tp1/weak/c8":
            case["client"] = verdict
    path = tmp_path / reference.name
    path.write_text(json.dumps(content))
    done = run("--measured", str(path))
    assert done.code == 0, done.err
    assert "Left out, their client is INVALID: tp1/weak/c8." in done.out
    for case in content["cases"]:
        case["client"] = verdict
    path.write_text(json.dumps(content))
    done = run("--measured", str(path))
    assert done.code == 2
    assert done.err.startswith("error: the client is INVALID in all that was measured (tp1/fixed/c1, ")


def test_the_examples_work_where_they_are_read(run: Script, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(SCRIPTS.parent)
    assert " python week5/predict_scaling.py --model" in run("--help").out
    monkeypatch.chdir(SCRIPTS)
    assert " python predict_scaling.py --model" in run("--help").out


def test_the_header_names_the_card_and_whose_ttft_it_is_and_columns_stay_apart(run: Script) -> None:
    done = run("--model", "qwen2-126m", "--gpu", "nvidia h100 80gb hbm3", "--concurrency", "4096", "--counts", "1", "8")
    assert done.code == 0, done.err
    also, header, names, *rows = done.out.splitlines()
    assert also.endswith("taken as H100-80GB-SXM; its name also fits H100-80GB-PCIe")
    assert header.startswith("H100-80GB-SXM ")
    assert "TTFT is a lone request's, without a queue" in header
    assert "guessed" not in done.out
    assert names.split()[:4] == ["plan", "GB/dev", "KV", "tokens"]
    for row in (row for row in rows if "] " in row):
        assert len(row.partition("[")[0].split()) == 6, row
        assert re.search(r"\] +\d+ ms +\d", row), row


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--model", "Llama-3.1-70B", "--gpu", "T4"], "tp16 would hold it"),
        (["--model", "Llama-3-8B", "--gpu", "Z9"], "known are"),
        (["--model", "Llama-3-8B", "--gpu", "banana"], "is unknown; known are "),
        (["--model", "Llama-3-8B", "--gpu", "h1000"], "the nearest known are H800-80GB, H100-80GB-SXM"),
        (["--model", "mystery", "--gpu", "H100"], "give a config.json"),
        (["--model", "Llama-3-8B", "--gpu", "H100", "--input-tokens", "0"], "1 is the least"),
        (["--model", "Llama-3-8B", "--gpu", "H100", "--output-tokens", "-4"], "1 is the least"),
        (["--model", "Llama-3-8B", "--gpu", "H100", "--counts", "0"], "--counts"),
        (["--model", "Llama-3-8B", "--gpu", "H100", "--measured", "tp1"], "PLAN=TOKENS_PER_SECOND"),
        (["--model", "Llama-3-8B", "--gpu", "H100", "--usd-per-hour", "-1"], "--usd-per-hour"),
        (["--model", "Llama-3-8B", "--gpu", "H100", "--usd-per-hour", "nan"], "--usd-per-hour nan"),
        (["--model", "Llama-3.1-70B", "--gpu", "T4"], "GB short on each device"),
        (["--gpu", "H100"], "--model and --gpu are needed"),
        (["--measured", "no-such-result.json"], "no-such-result.json"),
        (["--model", "Llama-3-8B", "--gpu", "H1000"], "GPU 'H1000' is unknown; the nearest known are"),
        (
            ["--model", "Llama-3-8B", "--gpu", "H100", "--dtype", "fp3"],
            "--dtype fp3: unknown precision; known are auto",
        ),
        (["--model", "Llama-3-8B", "--gpu", "H100", "--counts", "1000000"], "from 1 to 1024"),
        (["--model", "Llama-3-8B", "--gpu", "H100", "--measured", "tp2=1e9"], "below 1e+09"),
        (["--model", "/etc/passwd", "--gpu", "H100"], "--model /etc/passwd: /etc/passwd is no model's config.json"),
        (["--model", "", "--gpu", "H100"], "give a config.json"),
        (["--model", "/etc", "--gpu", "H100"], "--model /etc: the folder has no config.json"),
        (
            ["--model", "Llama-3-8B", "--gpu", "H100", "--input-tokens", "10000000"],
            "the KV cache of one request does not",
        ),
        (["--model", "Llama-3-8B", "--gpu", "H100", "--measured", ""], "PLAN=TOKENS_PER_SECOND"),
        (
            ["--model", "Llama-3-8B", "--gpu", "H100", "--measured", "tp1pp2=700", "pp2=800"],
            "--measured pp2=800: pp2 is given twice; give it once",
        ),
        (
            ["--model", "Llama-3.1-8B", "--gpu", "H100", "--counts", "6", "--measured", "tp8pp3=100"],
            "tp8pp3 needs 24 devices, and the largest of --counts is 6: add 24 to --counts, or measure what is nearest"
            " on 6: tp",
        ),
        (["--model", "Llama-3-8B", "--gpu", "H100", "--measured", "tp9999999=5"], "tp9999999 needs 9999999 devices"),
        (["--measured", str(REFERENCE)], f"that is a folder; name one result file in it, as in {REFERENCE}/2"),
        (["--measured", str(SCRIPTS)], "that is a folder; name one result file in it; it holds none"),
        (["--measured", "a.json", "b.json"], "--measured a.json b.json: one result file by itself"),
        (["--measured", "tp1=700", "b.json"], "one result file by itself, or PLAN=TOKENS_PER_SECOND"),
    ],
)
def test_bad_input_is_answered_in_one_line(run: Script, arguments: list[str], said: str) -> None:
    done = run(*arguments)
    assert done.code == 2
    assert said in done.err
    assert done.err.count("\n") == 1
