"""The time of one engine step under a plan, from shapes, hardware figures and nine constants of a machine and engine.

Every term is a roofline or a fixed cost (form after Williams et al., CACM 52(4), 2009, and the step models of Vidur,
arXiv 2405.05465, and GenZ, arXiv 2406.01698); the constants are fitted, never the form. All functions work on whole
columns: one entry per measured or wanted row.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]

CONSTANTS = (
    "memory",
    "compute",
    "layer_us",
    "step_ms",
    "sequence_us",
    "sync_us",
    "links",
    "reserve_gb",
    "attention",
    "sync_growth",
    "links_growth",
)
"""Names of the constants, all fitted as logarithms: shares of peak memory and arithmetic rates reached, fixed time per
layer, per step and per sequence of a step, waiting at each all-reduce, slowdown of the links against the table, and
memory that neither weights nor KV cache can use, and the bandwidth of attention as a share of that of the weights."""

PASS_TOKENS = 8192.0  # most tokens in one forward pass: vLLM's and TensorRT-LLM's usual max_num_batched_tokens
FEWEST_SEQUENCES = 1.0
MOST_SEQUENCES = 2048.0  # where the load is "as much as fits": TensorRT-LLM's largest batch
STATIC, PER_TOKEN, CONTINUOUS = 0, 1, 2  # what is measured: a batch's latency, the time per token, output tokens/s


@dataclass(frozen=True)
class Rows:
    """Columns of equal length, one entry per row. SI units; rates and bandwidths are per device and peak."""

    layers: Floats
    hidden: Floats
    heads: Floats
    kv_heads: Floats
    head_dim: Floats
    intermediate: Floats
    vocabulary: Floats
    experts: Floats
    experts_per_token: Floats
    bytes_per_weight: Floats
    kv_bytes: Floats
    flops: Floats
    bandwidth: Floats
    memory: Floats
    link: Floats
    all_reduce_bytes: Floats
    """Grid of message sizes, shape (sizes,): the same for all rows."""
    all_reduce_s: Floats
    """Seconds of one all-reduce over `expert_devices` at each size, shape (rows, sizes); zeros where there is one."""
    tp: Floats
    pp: Floats
    dp: Floats
    expert_devices: Floats
    """Devices over which the MLP or the experts lie: tp, or tp x dp where data-parallel ranks share the experts."""
    input_tokens: Floats
    output_tokens: Floats
    concurrency: Floats
    """Streams or sequences in the whole system; infinite where the load is as much as fits."""
    kind: NDArray[np.int64]
    compiled: Floats
    """1 where the engine schedules in compiled code and reserves a request's whole KV cache when it starts it
    (TensorRT-LLM, FasterTransformer), 0 where it schedules in Python and takes blocks as tokens come."""
    unit: Floats
    """What turns the kind's rate (batches/s, tokens/s of one stream, output tokens/s) into the measured one."""

    @classmethod
    def joined(cls, parts: Sequence[Rows]) -> Rows:
        """The rows of all parts, one after another; all have the same grid of message sizes."""
        names = [field.name for field in fields(cls) if field.name != "all_reduce_bytes"]
        whole = {name: np.concatenate([getattr(part, name) for part in parts]) for name in names}
        return cls(all_reduce_bytes=parts[0].all_reduce_bytes, **whole)

    @property
    def attention_weights(self) -> Floats:
        """Weights of one layer's attention."""
        return 2 * self.hidden * self.head_dim * (self.heads + self.kv_heads)

    @property
    def expert_weights(self) -> Floats:
        """Weights of one layer's MLP, or of one expert of it: gate, up and down."""
        return 3 * self.hidden * self.intermediate

    @property
    def held_weights(self) -> Floats:
        """Bytes of all weights of one replica; embeddings are kept at two bytes."""
        experts = np.maximum(self.experts, 1) * self.tp / self.expert_devices
        layer = self.attention_weights + self.expert_weights * experts
        held: Floats = self.layers * layer * self.bytes_per_weight + 4 * self.vocabulary * self.hidden
        return held

    @property
    def kv_bytes_per_token(self) -> Floats:
        """Bytes that one token keeps over all ranks; KV heads are copied where there are more ranks than heads."""
        kept: Floats = 2 * self.layers * np.maximum(self.kv_heads, self.tp) * self.head_dim * self.kv_bytes
        return kept


def kv_tokens(constants: Floats, rows: Rows) -> Floats:
    """Tokens of KV cache of one replica: 95 % of the memory, less weights and reserve; softly never below nothing."""
    devices = rows.tp * rows.pp
    room = devices * (0.95 * rows.memory - np.exp(constants[7]) * 1e9) - rows.held_weights
    scale = 1e9 * devices  # where so little is left, how much is a guess
    tokens: Floats = scale * np.logaddexp(0, room / scale) / rows.kv_bytes_per_token
    return tokens


def sequences(constants: Floats, rows: Rows) -> Floats:
    """Sequences that one replica works on at once: what is asked for, or what its KV cache holds."""
    asked = np.minimum(rows.concurrency / rows.dp, MOST_SEQUENCES * np.where(np.isinf(rows.concurrency), 1, 1e6))
    kept = rows.input_tokens + rows.output_tokens * np.where(rows.compiled > 0, 1.0, 0.5)
    held = kv_tokens(constants, rows) / kept
    held = np.maximum(held, FEWEST_SEQUENCES)
    soft = (asked**-4.0 + held**-4.0) ** -0.25  # a soft minimum: loads and lengths scatter
    running: Floats = np.maximum(soft, FEWEST_SEQUENCES)
    return running


def all_reduce_s(constants: Floats, rows: Rows, message: Floats) -> Floats:
    """Seconds of one all-reduce of `message` bytes: interpolated between measured sizes on logarithms, then linear."""
    grid = np.log(rows.all_reduce_bytes)
    at = np.log(np.maximum(message, rows.all_reduce_bytes[0]))
    low = np.clip(np.searchsorted(grid, at) - 1, 0, len(grid) - 2)
    share = np.maximum((at - grid[low]) / (grid[low + 1] - grid[low]), 0)
    each = np.arange(len(at))
    logs = np.log(np.maximum(rows.all_reduce_s, 1e-12))
    log_s = logs[each, low] * (1 - share) + logs[each, low + 1] * share
    doublings = np.log2(np.maximum(rows.expert_devices, 2) / 2)
    seconds = np.exp(constants[6] + constants[10] * doublings + log_s)
    result: Floats = seconds + np.exp(constants[5] + constants[9] * doublings) * 1e-6
    return result


@dataclass(frozen=True)
class Parts:
    """Seconds of the same work in three parts: device memory and arithmetic, communication, and what stays fixed."""

    work: Floats
    communication: Floats
    other: Floats

    @property
    def whole(self) -> Floats:
        """Seconds in all."""
        total: Floats = self.work + self.communication + self.other
        return total


def pass_s(constants: Floats, rows: Rows, decoded: Floats, prefilled: Floats, context: Floats) -> Parts:
    """Seconds of one forward pass over all layers: `decoded` sequences of mean `context`, `prefilled` prompt tokens.

    Experts that data-parallel ranks share work on the tokens of all of them, which an all-gather brings and a
    reduce-scatter takes back: together the bytes of one all-reduce (vLLM's AgRsAll2AllManager).
    """
    tokens = decoded + prefilled
    shared = tokens * rows.expert_devices / rows.tp
    rate = rows.flops * np.exp(constants[1])
    bandwidth = rows.bandwidth * np.exp(constants[0])
    dense = np.maximum(rows.experts, 1)
    chosen = np.where(rows.experts > 0, rows.experts_per_token, 1)
    touched = dense * (1 - (1 - chosen / dense) ** shared)
    used = rows.attention_weights + chosen * rows.expert_weights
    read = rows.attention_weights / rows.tp + touched * rows.expert_weights / rows.expert_devices
    width = 2 * rows.hidden * (4 + 2 * chosen) + 4 * chosen * rows.intermediate / rows.tp
    arithmetic = 2 * tokens * used / rows.tp / rate
    memory = (read * rows.bytes_per_weight + tokens * width) / bandwidth
    kv = 2 * np.maximum(rows.kv_heads / rows.tp, 1) * rows.head_dim * rows.kv_bytes
    attention = decoded * context * kv / (bandwidth * np.exp(constants[8]))
    attention += 2 * prefilled * rows.input_tokens * rows.heads * rows.head_dim / rows.tp / (0.7 * rate)
    sums = np.where(rows.tp > 1, all_reduce_s(constants, rows, tokens * rows.hidden * 2), 0.0)
    experts = np.where(rows.expert_devices > 1, all_reduce_s(constants, rows, shared * rows.hidden * 2), 0.0)
    head = 2 * rows.vocabulary * rows.hidden / rows.tp / bandwidth
    return Parts(
        work=rows.layers * (np.hypot(arithmetic, memory) + attention) + head,
        communication=rows.layers * (sums + experts),
        other=rows.layers * np.exp(constants[2]) * 1e-6,
    )


def hop_s(rows: Rows, tokens: Floats) -> Floats:
    """Seconds in which one pipeline stage hands its activations to the next."""
    return tokens * rows.hidden * 2 / rows.link + 2e-5


def passes(rows: Rows, running: Floats) -> Floats:
    """Forward passes per step of `running` sequences with their share of prompts: 1, or more where one is too small."""
    tokens = running / rows.pp * (1 + rows.input_tokens / rows.output_tokens)
    result: Floats = np.maximum(tokens / PASS_TOKENS, 1.0)
    return result


def mixed_step_s(constants: Floats, rows: Rows, running: Floats) -> Parts:
    """Seconds per output token of each of `running` sequences, prompts of new requests mixed in at the same pace."""
    batch = running / rows.pp  # each stage works on its own share of the sequences
    prompts = batch * rows.input_tokens / rows.output_tokens
    count = passes(rows, running)
    context = rows.input_tokens + rows.output_tokens / 2
    one = pass_s(constants, rows, batch / count, prompts / count, context)
    hops = np.where(rows.pp > 1, hop_s(rows, (batch + prompts) / count), 0.0)
    fixed = np.exp(constants[3]) * 1e-3 + np.exp(constants[4]) * 1e-6 * batch / count
    return Parts(
        work=count * one.work,
        communication=count * (one.communication + rows.pp * hops),
        other=count * (one.other + rows.pp * fixed),
    )


def static_batch_s(constants: Floats, rows: Rows, running: Floats) -> Floats:
    """Seconds in which `concurrency` equal requests that begin together are answered, `running` at a time."""
    asked = rows.concurrency / rows.dp
    prompts = asked * rows.input_tokens
    count = np.maximum(prompts / PASS_TOKENS, 1.0)
    nothing = np.zeros_like(prompts)
    prefill = count * pass_s(constants, rows, nothing, prompts / count, nothing).whole
    context = rows.input_tokens + rows.output_tokens / 2
    fixed = np.exp(constants[3]) * 1e-3 + np.exp(constants[4]) * 1e-6 * running
    hops = (rows.pp - 1) * hop_s(rows, running)
    step = pass_s(constants, rows, running, nothing, context).whole + fixed + hops
    result: Floats = prefill + rows.output_tokens * asked / running * step
    return result


def log_rate(constants: Floats, rows: Rows) -> Floats:
    """Logarithm of what was measured, as a rate: batches per second, tokens per second of one stream, or of all."""
    running = sequences(constants, rows)
    static = rows.kind == STATIC
    with np.errstate(invalid="ignore"):
        batch_s = static_batch_s(constants, rows, np.minimum(running, rows.concurrency / rows.dp))
    step_s = mixed_step_s(constants, rows, running).whole
    together = np.minimum(running * rows.dp, rows.concurrency)  # one stream keeps one of several replicas busy
    rate = np.where(static, 1 / batch_s, np.where(rows.kind == PER_TOKEN, 1 / step_s, together / step_s))
    result: Floats = np.log(rate * rows.unit)
    return result
