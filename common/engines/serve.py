"""`python -m common.engines.serve serve MODEL ...`: `vllm serve`, whose processes on CPUs import vLLM once."""

from __future__ import annotations

from common.engines import import_once


def main() -> None:
    """Run vLLM's own command line."""
    import_once.begin()
    from vllm.entrypoints.cli.main import main as vllm_main

    vllm_main()


if __name__ == "__main__":
    main()
