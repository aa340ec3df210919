"""What Runpod's REST API v2 takes and gives, as far as the lab uses it: unknown fields are refused."""

from __future__ import annotations

import json
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from common.cloud.http import Reply


class Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True)


class Gpu(Strict):
    id: str
    count: Annotated[int, Field(ge=1, le=8)]
    minCudaVersion: str | None = None
    minRamPerGpu: int | None = None
    minVcpuCountPerGpu: int | None = None


class PodBody(Strict):
    name: Annotated[str, Field(min_length=1, max_length=191)]
    image: Annotated[str, Field(min_length=1)]
    cloud: Literal["SECURE", "COMMUNITY"] = "SECURE"
    gpu: Gpu
    disk: Annotated[int, Field(ge=10)]
    mounts: dict[str, Any] | None = None
    ports: list[Annotated[str, Field(pattern=r"^\d+/(tcp|http)$")]] = []
    env: dict[str, str] = {}
    startSsh: bool = False
    args: str | None = None
    entrypoint: list[str] | None = None
    cmd: list[str] | None = None
    dataCenterIds: list[str] = []


def ok(document: object, status: int = 200) -> Reply:
    return Reply(status, {}, json.dumps(document).encode())


def problem(status: int, detail: str) -> Reply:
    return Reply(status, {"content-type": "application/problem+json"}, json.dumps({"detail": detail}).encode())
