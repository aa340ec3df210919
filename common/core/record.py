"""What one request did."""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass
class RequestRecord:
    """Stamps are nanoseconds of `time.perf_counter_ns`; `None` means that it never happened.

    `chunk_ns` holds the arrival of each chunk with generated content, `ended_ns` the last byte or the failure.
    `output_tokens` is what the server's `usage` says, `requested_tokens` what was asked for, `recounted_tokens` what a
    tokenizer counts in the text. `slot` is the closed loop's client that sent it, from 0.
    """

    index: int
    request_class: str
    requested_tokens: int
    intended_ns: int | None = None
    sent_ns: int | None = None
    chunk_ns: list[int] = field(default_factory=list)
    ended_ns: int | None = None
    prompt_tokens: int | None = None
    output_tokens: int | None = None
    recounted_tokens: int | None = None
    finish_reason: str | None = None
    error_kind: str | None = None
    error: str | None = None
    slot: int | None = None

    @property
    def ok(self) -> bool:
        """Whether the request ended as a complete answer."""
        return self.error_kind is None

    @property
    def ttft_s(self) -> float | None:
        """Time to first token: first content chunk minus send."""
        if self.sent_ns is None or not self.chunk_ns:
            return None
        return (self.chunk_ns[0] - self.sent_ns) / 1e9

    @property
    def e2el_s(self) -> float | None:
        """End-to-end latency: last content chunk minus send."""
        if self.sent_ns is None or not self.chunk_ns:
            return None
        return (self.chunk_ns[-1] - self.sent_ns) / 1e9

    @property
    def tpot_s(self) -> float | None:
        """Time per output token after the first, for answers of two tokens or more."""
        ttft_s, e2el_s = self.ttft_s, self.e2el_s
        if ttft_s is None or e2el_s is None or self.output_tokens is None or self.output_tokens < 2:
            return None
        return (e2el_s - ttft_s) / (self.output_tokens - 1)

    @property
    def itl_s(self) -> list[float]:
        """Inter-token latencies: gaps between content chunks."""
        return [(later - earlier) / 1e9 for earlier, later in zip(self.chunk_ns, self.chunk_ns[1:], strict=False)]
