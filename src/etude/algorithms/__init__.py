"""The registry of algorithms: from the names of the command line to classes.

A name stands for a class, or for a variant of one: a `functools.partial` of it. Each algorithm's
file ends with the names that it declares, and `make index` collects them in `_index.py`, which is
read without JAX. No other name, such as one read from a file, is ever imported.
"""

import dataclasses
import difflib
import importlib
from typing import Any

from etude.algorithms._index import ALGORITHMS
from etude.errors import InvalidInput
from etude.importing import import_object
from etude.kinds import qualified_name


def algorithm_factory(name: str) -> Any:
    """Return the algorithm's class, or a `partial` of it; called without arguments, the defaults.

    Raises InvalidInput, with the nearest names, for an unknown name.
    """
    if name not in ALGORITHMS:
        matches = difflib.get_close_matches(name.lower(), ALGORITHMS, n=2, cutoff=0.4)
        hint = f"did you mean {' or '.join(matches)}? " if matches else ""
        raise InvalidInput(
            f"no algorithm is called {name!r}; {hint}there are {', '.join(ALGORITHMS)}"
        )
    module, attribute, _ = ALGORITHMS[name]
    return getattr(importlib.import_module(module), attribute)


def import_algorithm(name: str) -> Any:
    """Return the class called `name`, module:Class; for names that a person typed, never a file's.

    Raises InvalidInput where there is none.
    """
    from etude.algorithms.protocol import DEFAULTS

    cls = import_object("algorithm", name)
    is_struct = isinstance(cls, type) and dataclasses.is_dataclass(cls)
    if not (is_struct and all(hasattr(cls, default) for default in DEFAULTS)):
        raise InvalidInput(
            f"algorithm {name!r} is not a class under the decorator @etude.algorithm"
        )
    return cls


def algorithm_class(name: str) -> Any:
    """Return the class of the algorithm called `name`; raises as `algorithm_factory` does."""
    factory = algorithm_factory(name)
    return getattr(factory, "func", factory)


def registered_name(algorithm: Any) -> str:
    """Return the most specific registered name of an algorithm, else module:Class of its class.

    A name fits if the algorithm has all settings of that variant, for a nested struct its kind or
    one of the same module, such as another distributional head. The one with most settings wins:
    TD3 with one critic, no noise and no delay is ddpg.
    """
    cls, best_name, most_settings = type(algorithm), qualified_name(type(algorithm)), -1
    chapter = cls.__module__.rpartition(".")[0]  # which has the variants too
    for name, (module, _, _) in ALGORITHMS.items():
        if module.rpartition(".")[0] == chapter and algorithm_class(name) is cls:
            settings = getattr(algorithm_factory(name), "keywords", {})
            if (
                all(_fits(getattr(algorithm, key), value) for key, value in settings.items())
                and len(settings) > most_settings
            ):
                best_name, most_settings = name, len(settings)
    return best_name


def _fits(value: Any, setting: Any) -> bool:
    if dataclasses.is_dataclass(setting):
        return type(value).__module__ == type(setting).__module__
    return value == setting
