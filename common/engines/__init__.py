"""Start, own, prove and end a vLLM under a plan."""
