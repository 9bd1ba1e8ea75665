"""The errors a user can mend. Each message names the thing, its value and the way out."""


class InvalidInput(ValueError):
    """Something asked for cannot be done as asked. The command line prints it and exits with status
    2."""


class EnvironmentFault(RuntimeError):
    """An environment raised, or returned what its spaces do not allow."""


class Diverged(RuntimeError):
    """A loss or a weight stopped being finite."""
