"""How a model is laid over devices."""

from __future__ import annotations

import re
from dataclasses import dataclass

_WRITTEN_FORM = re.compile(r"(?:tp(\d+))?(?:pp(\d+(?:\+\d+)*))?(?:dp(\d+))?(ep)?(?:x(\d+))?")


@dataclass(frozen=True, order=True)
class ParallelPlan:
    """Tensor, pipeline, data and expert parallelism inside one engine, times independent replicas.

    `dp` is vLLM's own data parallelism; `replicas` are engines that know nothing of each other. `stage_layers` are the
    layers of each pipeline stage where somebody chose them; empty: as evenly as vLLM splits them.
    Written `tp2`, `tp2pp2`, `tp1dp2`, `tp1x2` (two replicas), `tp4ep`, `pp5+3` (two stages of 5 and 3 layers).
    """

    tp: int = 1
    pp: int = 1
    dp: int = 1
    ep: bool = False
    replicas: int = 1
    stage_layers: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        for name in ("tp", "pp", "dp", "replicas"):
            size = getattr(self, name)
            if size < 1:
                raise ValueError(f"{name} must be 1 or more, not {size}")
        if self.stage_layers and len(self.stage_layers) != self.pp:
            raise ValueError(f"{len(self.stage_layers)} numbers of layers were given for {self.pp} pipeline stages")
        if self.stage_layers and (self.pp == 1 or min(self.stage_layers) < 1):
            raise ValueError(f"a pipeline has two stages or more, each of 1 layer or more, not {self.stage_layers}")

    @property
    def devices(self) -> int:
        """Devices the whole plan occupies."""
        return self.devices_per_replica * self.replicas

    @property
    def devices_per_replica(self) -> int:
        """Devices, and so ranks, of one engine."""
        return self.tp * self.pp * self.dp

    def __str__(self) -> str:
        text = "" if self.tp == 1 and self.pp > 1 else f"tp{self.tp}"
        text += f"pp{'+'.join(map(str, self.stage_layers)) or self.pp}" if self.pp > 1 else ""
        text += f"dp{self.dp}" if self.dp > 1 else ""
        text += "ep" if self.ep else ""
        return text + (f"x{self.replicas}" if self.replicas > 1 else "")

    @classmethod
    def parse(cls, text: str) -> ParallelPlan:
        """Read the written form; `pp2` is `tp1pp2`.

        Raises:
            ValueError: not a plan, or a size below 1.
        """
        match = _WRITTEN_FORM.fullmatch(text.strip().lower())
        if match is None or not match.group(0):
            raise ValueError(f"'{text}' is not a plan; write tp2, tp2pp2, tp1dp2, tp1x2, tp4ep or pp5+3")
        tp, pp, dp, ep, replicas = match.groups(default="1")
        layers = tuple(map(int, pp.split("+"))) if "+" in pp else ()
        return cls(int(tp), len(layers) or int(pp), int(dp), ep == "ep", int(replicas), layers)
