"""The algorithms by name. A file may name one of these and nothing else: no name read from outside is ever imported."""
import difflib
import importlib
from typing import Any

from etude.errors import InvalidInput

ALGORITHMS = {                              # name: (module, class, the line that `etude algorithms` prints)
    "dqn": ("etude.algorithms.value.dqn", "DQN", "deep Q-learning: discrete actions, replay, target network"),
    "ppo": ("etude.algorithms.trust_region.ppo", "PPO", "proximal policy optimisation: every kind of action"),
}


def algorithm_class(name: str) -> Any:
    """The class of the algorithm called `name`.

    Raises InvalidInput, with near matches, when there is none.
    """
    if name not in ALGORITHMS:
        near = difflib.get_close_matches(name.lower(), ALGORITHMS, n=2, cutoff=0.4)
        hint = f"did you mean {' or '.join(near)}? " if near else ""
        raise InvalidInput(f"no algorithm is called {name!r}; {hint}there are {', '.join(ALGORITHMS)}")
    module, cls, _ = ALGORITHMS[name]
    return getattr(importlib.import_module(module), cls)


def name_of(algorithm: Any) -> str:
    """The name of an algorithm in the table; its class's name in lower case when it is the user's own."""
    own = type(algorithm)
    known = (name for name, (module, cls, _) in ALGORITHMS.items() if (module, cls) == (own.__module__, own.__qualname__))
    return next(known, own.__name__.lower())
