"""A machine that is not here, and a model that is not here, for a dry run of what would be rented."""

from __future__ import annotations

from pathlib import Path

from common.engines.models import Model, ModelError, find_model
from common.experiment.view import say_plainly
from common.machine.devices import Device, Machine
from common.predict.shapes import UnknownModelError, find_shape


def planned_machine(gpus: int) -> Machine:
    """So many equal GPUs; nothing else is known of them."""
    return Machine(
        "gpu", tuple(Device(index, "gpu", "planned GPU") for index in range(gpus)), host_shares_devices=False
    )


def planned_model(name: str) -> Model:
    """The model, or one of the same shape from the table of known models where the hub cannot be reached.

    Raises:
        ModelError: neither is known.
    """
    try:
        return find_model(name, say_plainly, download=False)
    except ModelError:
        try:
            shape, guessed = find_shape(name)
        except UnknownModelError:
            shape, guessed = None, False
        if shape is None or guessed or "/" not in name:
            raise
        return Model(name, Path(name), shape)
