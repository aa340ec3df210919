"""Exit codes, and what can go wrong: refusals before anything is rented, and answers of a provider."""

from __future__ import annotations

CLEAN, BAD_INPUT, OVER_CAP, NO_CAPACITY, RUN_FAILED, BILLING = 0, 2, 3, 4, 5, 9
INTERRUPTED = 130  # with nothing of ours open


class CloudError(Exception):
    """One line with the remedy; `code` is what the process ends with where nothing of ours is left."""

    code = RUN_FAILED


class Refused(CloudError):
    """Wrong input or something missing here; nothing was asked of a provider."""

    code = BAD_INPUT


class OverCapError(CloudError):
    """It would cost or last longer than it may."""

    code = OVER_CAP


class MachineError(CloudError):
    """The machine is gone, is not what was ordered, or does not answer."""


class ProviderError(CloudError):
    """An answer of the provider that is not the one asked for."""


class NotMadeError(ProviderError):
    """The provider says that it made nothing: no capacity, quota, balance or right."""

    code = NO_CAPACITY


class DeniedError(NotMadeError):
    """The same answer would come again: no right, no balance, or a request that it does not understand."""


class UnansweredError(ProviderError):
    """No answer, or one that says nothing: what the provider did is not known."""


class OtherAccountError(UnansweredError):
    """The credentials are of another account than the one that rented: its lists say nothing about the renting."""

    code = BILLING
