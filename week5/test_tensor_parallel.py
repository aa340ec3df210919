"""Does tensor parallelism work here at all?

Question.    Does a model that is split over n devices start, answer, write the same text as on one device, and really
             leave only a share of its weights on each?
Prediction.  Every rank holds a little more than weights/n: norms, and KV heads where there are fewer than ranks, are on
             all of them. In float32 every greedy token is the same as at TP=1; in bfloat16 a sum that is taken in
             another order rounds differently, and two tokens that are nearly equally likely may change places.
Method.      Real vLLM, for each size one engine of `vllm serve` and one of the offline `LLM(...)` API, the same seeded
             prompts one after another, greedy. Weights are counted in every rank as they are loaded (on GPUs vLLM's own
             load report stands beside the count); what a rank should hold comes from TP=1's own weights and the model's
             shape. Where answers part, the log-probabilities of both tokens tell whether rounding explains it.
Reading.     PASS: everything was shown. FAIL: something is wrong, and the reason says what. NOT TESTED: it could not be
             shown here, and the remedy says what it takes. Read the weights, not the total memory: vLLM fills devices
             to the same level at any TP, and two whole replicas look just like one split model.

Examples:
  python test_tensor_parallel.py                            # sizes 1, 2, 4 as far as devices reach
  python test_tensor_parallel.py --dtype bfloat16           # how far rounding carries: answers may part
  python test_tensor_parallel.py --model Qwen/Qwen3-8B --tp 1 2 4 8
  python test_tensor_parallel.py --no-offline               # half the engine starts
"""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # the lab that this script stands in

from common.analysis.verification.judgement import any_fails
from common.analysis.verification.table import print_verification, verification_summary
from common.core.plan import ParallelPlan
from common.engines.models import Model
from common.experiment.experiment import Experiment
from common.experiment.listing import Skipped, default_lengths, flags_of, list_cases, plans
from common.experiment.options import Options, check_counts, check_requests, parse
from common.experiment.run import run
from common.experiment.spec import Spec
from common.experiment.verify_spec import VerifySpec
from common.machine.command_line import Count, optional
from common.machine.devices import Machine
from common.machine.reader import while_read

METHOD_VERSION = 1
PROMPTS = {"smoke": 8, "lab": 16, "full": 32}


@dataclass(frozen=True)
class VerifyOptions(Options):
    """Options of the verification."""

    dtype: Annotated[Literal["auto", "bfloat16", "float32"] | None, optional("{auto,bfloat16,float32}")] = None
    """Precision of weights and sums; by default float32 on CPU, where tokens must then be identical, and the model's
    own (auto) on GPUs."""
    prompts: Count = None
    """Greedy answers that are compared; the preset's number by default."""
    input_tokens: Count = None
    """Prompt length; by default 32 on CPU, 512 on GPUs."""
    output_tokens: Count = None
    """Generated tokens per prompt; by default 32 on CPU, 128 on GPUs."""
    offline: bool = True
    """Test the offline `LLM(...)` API too, at an engine start of its own for each size; --no-offline leaves it out."""

    def check(self) -> None:
        """Check what no type can say.

        Raises:
            InputError: a number out of its range.
        """
        super().check()
        counts = {"--prompts": self.prompts, "--input-tokens": self.input_tokens, "--output-tokens": self.output_tokens}
        check_counts(counts)
        check_requests("--prompts", self.prompts)


def cases(options: VerifyOptions, model: Model, machine: Machine) -> tuple[list[Spec], list[Skipped]]:
    """For every size the served engine and the offline one, the smallest first: the others are compared with it."""
    sizes = plans(options, model)
    dtype = options.dtype or ("float32" if machine.kind == "cpu" else "auto")
    changed = () if dtype == "auto" else (("dtype", dtype),)
    lengths = default_lengths(model, machine, options.input_tokens, options.output_tokens)
    prompts = options.prompts or PROMPTS[options.preset]

    def of_plan(plan: ParallelPlan) -> list[VerifySpec]:
        flags = flags_of(plan, options, machine)
        ways = (False, True) if options.offline else (False,)
        return [VerifySpec(plan, sizes[0], way, model.shape, lengths, prompts, flags, changed) for way in ways]

    return list_cases(sizes, of_plan, options, model, machine)


EXPERIMENT = Experiment(
    "test_tensor_parallel", METHOD_VERSION, cases, print_verification, verification_summary, failed=any_fails
)


def main() -> int:
    """Parse, run, and return the exit code: 1 where a size FAILs, 0 where it is only NOT TESTED."""
    return run(EXPERIMENT, parse(VerifyOptions, __doc__ or ""))


if __name__ == "__main__":
    sys.exit(while_read(main))
