"""The errors that a user can mend; each message names the thing, its value and the way out."""

from typing import Any


def shown(value: Any) -> str:
    """A value in a message: of a number of many digits, how many there are; of a text, the start.

    >>> shown(10**4000)
    'a whole number of more than 18 digits'
    """
    if isinstance(value, int) and abs(value) >= 10**18:
        return "a whole number of more than 18 digits"
    return f"{value!r:.80}"


class InvalidInput(ValueError):
    """An input that etude cannot accept; the command line prints it and exits with status 2."""


class EnvironmentFault(RuntimeError):
    """An environment raised an error, or returned a value outside its spaces."""


class ExpertFault(RuntimeError):
    """A function that acts as an expert raised an error."""


class Diverged(RuntimeError):
    """A loss or a weight is no longer finite."""
