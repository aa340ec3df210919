from __future__ import annotations

import asyncio

import pytest

from common.load import control
from tests.load.conftest import GoldenServer
from tests.load.test_client_errors import closed_port


def test_a_server_that_answers(golden: GoldenServer) -> None:
    assert asyncio.run(control.is_healthy(golden.base_url))
    assert asyncio.run(control.served_models(golden.base_url)) == ["m", "lora"]
    assert asyncio.run(control.version(golden.base_url)) == "9.9"
    assert asyncio.run(control.cache_config(golden.base_url)) == {"block_size": "16", "num_gpu_blocks": "256"}


def test_metrics_are_summed_over_labels(golden: GoldenServer) -> None:
    assert asyncio.run(control.scrape_metrics(golden.base_url)) == {
        "vllm:generation_tokens_total": 123.0,
        "vllm:num_requests_running": 3.0,
        "vllm:request_prompt_tokens_sum": 64.0,
        "vllm:request_prompt_tokens_count": 4.0,
        "vllm:cache_config_info": 1.0,
    }


def test_collective_rpc_returns_one_result_per_rank(golden: GoldenServer) -> None:
    results = asyncio.run(control.collective_rpc(golden.base_url, "weigh", ("a",), 3.0))
    assert results == [{"method": "weigh", "args": ["a"], "timeout": 3.0}, None]


def test_a_server_that_is_not_there() -> None:
    base_url = f"http://127.0.0.1:{closed_port()}"
    assert not asyncio.run(control.is_healthy(base_url))
    with pytest.raises(control.ControlError, match="did not answer") as caught:
        asyncio.run(control.served_models(base_url))
    assert isinstance(caught.value, ConnectionError) and "\n" not in str(caught.value)


def test_a_server_of_another_kind(golden: GoldenServer) -> None:
    with pytest.raises(control.ControlError, match="answered 404: nothing here"):
        asyncio.run(control.served_models(f"{golden.base_url}/elsewhere"))
