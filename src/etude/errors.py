"""The errors that a user can mend; each message names the thing, its value and the way out."""


class InvalidInput(ValueError):
    """An input that etude cannot accept; the command line prints it and exits with status 2."""


class EnvironmentFault(RuntimeError):
    """An environment raised an error, or returned a value outside its spaces."""


class ExpertFault(RuntimeError):
    """A function that acts as an expert raised an error."""


class Diverged(RuntimeError):
    """A loss or a weight is no longer finite."""
