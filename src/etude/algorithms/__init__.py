"""The algorithms by name. A file may name one of these and nothing else: no name read from outside
is ever imported.

A name stands for a class, or for a variant of one: a `functools.partial` of it. Each algorithm's
file ends with the names that it declares, and `make index` collects them in `_index.py`, which is
read without JAX.
"""

import difflib
import importlib
from typing import Any

from etude.algorithms._index import ALGORITHMS
from etude.errors import InvalidInput


def algorithm_factory(name: str) -> Any:
    """What makes the algorithm called `name`, with no arguments the defaults: its class, or a
    `partial` of one.

    Raises InvalidInput, with near matches, when there is none.
    """
    if name not in ALGORITHMS:
        near = difflib.get_close_matches(name.lower(), ALGORITHMS, n=2, cutoff=0.4)
        hint = f"did you mean {' or '.join(near)}? " if near else ""
        raise InvalidInput(
            f"no algorithm is called {name!r}; {hint}there are {', '.join(ALGORITHMS)}"
        )
    module, attribute, _ = ALGORITHMS[name]
    return getattr(importlib.import_module(module), attribute)


def algorithm_class(name: str) -> Any:
    """The class of the algorithm called `name`; raises as `algorithm_factory` does."""
    found = algorithm_factory(name)
    return getattr(found, "func", found)


def registered_name(algorithm: Any) -> str:
    """The name in the table that says most of an algorithm; its class's name in lower case when it
    is the user's own.

    Whatever has the settings of a name is called by it: TD3 with one critic, no noise and no delay
    is ddpg.
    """
    own, best, most = type(algorithm), type(algorithm).__name__.lower(), -1
    for name, (module, _, _) in ALGORITHMS.items():
        if module == own.__module__ and algorithm_class(name) is own:
            stands_for = getattr(algorithm_factory(name), "keywords", {})
            if (
                all(getattr(algorithm, key) == value for key, value in stands_for.items())
                and len(stands_for) > most
            ):
                best, most = name, len(stands_for)
    return best
