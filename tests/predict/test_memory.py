from __future__ import annotations

import json
import re

import pytest

from common.core.legality import why_illegal
from common.core.plan import ParallelPlan
from common.predict.hardware import DATA, UnknownHardwareError, find, find_exactly, others_of_the_name
from common.predict.memory import fit, kv_bytes_per_token, smallest_that_fits
from common.predict.shapes import UnknownModelError, bytes_of_config, bytes_per_weight, find_shape

LLAMA_8B, _ = find_shape("meta-llama/Llama-3.1-8B-Instruct")
LLAMA_70B, _ = find_shape("Llama-3.1-70B")
H100 = find("NVIDIA H100 80GB SXM")


def test_kv_bytes_by_hand() -> None:
    """32 layers x 8 heads x 128 x keys and values x 2 bytes = 131,072; half of it at tp2, an eighth from tp8 on."""
    assert kv_bytes_per_token(LLAMA_8B, ParallelPlan()) == 131_072
    assert kv_bytes_per_token(LLAMA_8B, ParallelPlan(tp=2)) == 65_536
    assert kv_bytes_per_token(LLAMA_8B, ParallelPlan(tp=8)) == kv_bytes_per_token(LLAMA_8B, ParallelPlan(tp=16))


def test_weights_and_tokens_by_hand() -> None:
    found = fit(LLAMA_8B, H100, ParallelPlan(), 2.0)
    assert found.weight_bytes == pytest.approx(16.06e9, rel=0.001)  # 8.03e9 parameters of two bytes
    assert found.kv_tokens == int((0.9 * 79.6 * 2**30 - found.weight_bytes - 2.5e9) // 131_072)
    assert found.largest_concurrency(1000, 1000) == found.kv_tokens // 2000


def test_a_model_that_does_not_fit_says_by_how_much_and_what_would() -> None:
    found = fit(LLAMA_70B, H100, ParallelPlan(), 2.0)
    assert not found.fits
    assert found.missing_bytes == pytest.approx(141.1e9 + 2.5e9 - 0.9 * 79.6 * 2**30, rel=0.01)
    assert smallest_that_fits(LLAMA_70B, H100, 2.0) == ParallelPlan(tp=2)  # 70.6 + 2.9 of 76.9 GB
    assert smallest_that_fits(LLAMA_70B, find("T4"), 4.0) == ParallelPlan(tp=32)


def test_data_parallel_ranks_share_experts_by_hand() -> None:
    """Qwen3-30B-A3B: 29.0e9 of 30.5e9 weights are experts; tp1dp2ep has half of them and all of the rest."""
    shape, _ = find_shape("Qwen3-30B-A3B")
    experts = 3 * 2048 * 768 * 128 * 48
    rest = shape.parameters - experts
    spread = fit(shape, H100, ParallelPlan(dp=2, ep=True), 2.0)
    assert spread.weight_bytes == pytest.approx(2 * (experts / 2 + rest))
    assert fit(shape, H100, ParallelPlan(replicas=2), 2.0).weight_bytes == pytest.approx(2 * (experts + rest))
    assert fit(shape, H100, ParallelPlan(tp=2, ep=True), 2.0).weight_bytes == pytest.approx(experts + rest)


@pytest.mark.parametrize("lengths", [(0, 5), (5, -1)])
def test_lengths_below_one_are_refused(lengths: tuple[int, int]) -> None:
    with pytest.raises(ValueError, match="1 token or more"):
        fit(LLAMA_8B, H100, ParallelPlan(), 2.0).largest_concurrency(*lengths)


def test_unknown_names_get_the_nearest_three() -> None:
    with pytest.raises(UnknownHardwareError, match=r"nearest known are .*, .*, .*"):
        find("H900")
    with pytest.raises(UnknownModelError, match=r"config\.json"):
        find_shape("mystery")


def test_shapes_have_the_parameters_their_names_say() -> None:
    for name, billions in {"Qwen3-235B-A22B": 235, "gpt-oss-120b": 117, "Mixtral-8x22B": 141, "Qwen2-7B": 7.6}.items():
        assert find_shape(name)[0].parameters / 1e9 == pytest.approx(billions, rel=0.02)
    guessed, is_guess = find_shape("someone/new-13B-chat")
    assert is_guess
    assert guessed.parameters / 1e9 == pytest.approx(13, rel=0.1)
    assert all(why_illegal(ParallelPlan(tp=tp), guessed) is None for tp in (2, 4, 8)), "or nothing could be foretold"


def test_every_kept_shape_is_found_by_its_name_and_has_the_size_in_it() -> None:
    entries = json.loads((DATA / "models.json").read_text())["models"]
    sized = 0
    for entry in entries:
        shape, guessed = find_shape(entry["name"])
        assert not guessed
        assert (shape.hidden_size, shape.num_hidden_layers) == (entry["h"], entry["L"])
        size = re.search(r"-(\d+(?:\.\d+)?)[Bb]\b", entry["name"])
        if size and not re.search(r"Llama-4|T5", entry["name"]):
            sized += 1
            assert shape.parameters / 1e9 == pytest.approx(float(size.group(1)), rel=0.1, abs=0.25), entry["name"]
    assert sized > 35


def test_every_figure_has_its_source_and_confidence() -> None:
    content = json.loads((DATA / "hardware.json").read_text())
    for name, entry in content["gpus"].items():
        assert entry["confidence"], name
        assert entry["sources"] and all(source.startswith("https://") for source in entry["sources"]), name
        assert find(name).name == find_exactly(name).name == name
    assert content["all_reduce"]["source"].startswith("https://")


def test_bytes_per_weight_come_from_the_name_first() -> None:
    assert bytes_per_weight("Qwen3-235B-FP8", "bf16") == 1
    assert bytes_per_weight("Llama-70B", "awq int4") == 0.56
    assert bytes_per_weight("Llama-70B", "fp16") == 2
    assert bytes_per_weight("Llama-70B-W4A16", "auto") == bytes_per_weight("Llama-70B_w4", "auto") == 0.56
    assert bytes_per_weight("gw4-Llama-70B", "auto") == bytes_per_weight("new8-Llama-70B", "auto") == 2


def test_a_checkpoint_that_is_not_of_two_bytes_is_known() -> None:
    """DeepSeek-V3 is published in fp8: 671 GB over eight H200 of 141 GB each."""
    name = "deepseek-ai/DeepSeek-V3"
    assert [bytes_per_weight(name, dtype) for dtype in ("auto", "", "bfloat16")] == [1, 1, 2]
    assert bytes_per_weight("someone/DeepSeek-V3-bf16", "auto") == 2
    assert bytes_per_weight("moonshotai/Kimi-K2-Thinking", "auto") == 0.56
    assert bytes_per_weight("Qwen3-32B", "auto") == 2
    shape, _ = find_shape(name)
    assert smallest_that_fits(shape, find("H200"), 1.0) == ParallelPlan(tp=8)
    assert find_shape("deepseek-ai/DeepSeek-R1-Distill-Qwen-32B")[0] == find_shape("Qwen2.5-32B")[0]
    assert find_shape("deepseek-ai/DeepSeek-R1")[0] == shape


@pytest.mark.parametrize(
    ("quantization", "expected"),
    [
        (None, 2.0),
        ({}, 2.0),
        ({"quant_method": "fp8", "fmt": "e4m3", "weight_block_size": [128, 128]}, 1.0),
        ({"quant_method": "awq", "bits": 4, "group_size": 128}, 0.56),
        ({"quant_method": "gptq", "bits": 8}, 1.0),
        ({"quant_method": "mxfp4", "modules_to_not_convert": ["lm_head"]}, 0.56),
        ({"quant_method": "modelopt", "quant_algo": "NVFP4", "kv_cache_quant_algo": "FP8"}, 0.56),
        ({"quant_method": "bitsandbytes", "load_in_4bit": False, "load_in_8bit": True}, 1.0),
        (
            {
                "quant_method": "compressed-tensors",
                "config_groups": {"group_0": {"input_activations": {"num_bits": 8}, "weights": {"num_bits": 4}}},
            },
            0.56,
        ),
    ],
)
def test_bytes_as_a_config_says_them(quantization: dict[str, object] | None, expected: float) -> None:
    assert bytes_of_config({"quantization_config": quantization}) == expected
    assert bytes_of_config({"text_config": {"quantization_config": quantization}}) == expected


def test_a_quantization_of_unknown_form_asks_for_the_precision() -> None:
    with pytest.raises(ValueError, match="--dtype"):
        bytes_of_config({"quantization_config": {"quant_method": "novel"}})


@pytest.mark.parametrize(
    ("name", "card"),
    [
        ("H100", "H100-80GB-SXM"),
        ("NVIDIA H100 80GB HBM3", "H100-80GB-SXM"),
        ("h100 sxm", "H100-80GB-SXM"),
        ("NVIDIA H100 PCIe", "H100-80GB-PCIe"),
        ("A100 PCIe", "A100-80GB-PCIe"),
        ("NVIDIA A100-SXM4-40GB", "A100-40GB-SXM4"),
        ("NVIDIA GeForce RTX 4090", "RTX4090"),
        ("RTX 4090", "RTX4090"),
        ("NVIDIA RTX 6000 Ada Generation", "RTX-6000-Ada"),
        ("Tesla T4", "T4"),
        ("AMD Instinct MI300X", "MI300X"),
    ],
)
def test_a_card_by_the_names_that_it_goes_by(name: str, card: str) -> None:
    assert find_exactly(name).name == card


@pytest.mark.parametrize(
    ("name", "others"),
    [
        ("A100", ["A100-80GB-PCIe", "A100-40GB-SXM4"]),
        ("a100 80gb", ["A100-80GB-PCIe"]),
        ("A100 SXM", ["A100-40GB-SXM4"]),
        ("A100 PCIe", []),
        ("NVIDIA A100-SXM4-40GB", []),
        ("A100-80GB-SXM4", []),
        ("H100", ["H100-80GB-PCIe"]),
        ("H100 SXM", []),
        ("L40S", []),
        ("RTX A6000", []),
    ],
)
def test_a_name_that_fits_several_cards_names_the_others(name: str, others: list[str]) -> None:
    assert others_of_the_name(name) == others


@pytest.mark.parametrize(
    "name",
    ["H1000", "H100 PCle", "H1000 PCIe", "RTX 40900", "T400", "MI300A", "GB200", "V100 32GB", "A100 41GB"],
)
def test_a_name_that_may_mean_another_card_is_refused(name: str) -> None:
    with pytest.raises(UnknownHardwareError, match=r"the nearest known are .+, .+, "):
        find_exactly(name)
