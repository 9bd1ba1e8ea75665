"""Functions that make Gymnasium environments: a user's own, checked, and sent to other processes.

This module needs Gymnasium alone, so that worker processes start without JAX.
"""

import sys
import weakref
from collections.abc import Callable
from functools import partial
from multiprocessing.reduction import ForkingPickler
from typing import Any

import gymnasium

from etude.errors import InvalidInput


class CheckedFactory:
    """A user's function that makes an environment, which checks what the function returns.

    Raises InvalidInput for what is no `gymnasium.Env`, and for an environment that the function has
    returned before.
    """

    def __init__(self, factory: Callable[[], gymnasium.Env]):
        self.factory, self.name = factory, name_of_function(factory)
        self.made: weakref.WeakValueDictionary = weakref.WeakValueDictionary()  # by their `id`

    def __call__(self) -> gymnasium.Env:
        env = self.factory()
        if not isinstance(env, gymnasium.Env):
            raise InvalidInput(f"{self.name} returns {kind_of(env)}")
        if env.unwrapped is self.made.get(id(env.unwrapped)):
            raise InvalidInput(
                f"{self.name} returns the same environment twice; make a new one at each call, "
                "since copies are stepped side by side"
            )
        self.made[id(env.unwrapped)] = env.unwrapped
        return env

    def __reduce__(self) -> tuple:
        return CheckedFactory, (self.factory,)  # what was made here says nothing elsewhere


def kind_of(value: Any) -> str:
    """Say what a value is that should have been a `gymnasium.Env`, and what to give instead."""
    if isinstance(value, gymnasium.vector.VectorEnv):
        return (
            f"{type(value).__name__}, a gymnasium.vector.VectorEnv, which etude does not step; "
            "return a single gymnasium.Env, and say how many copies with num_envs"
        )
    return (
        f"{value!r:.80}, which is no gymnasium.Env; return a new one at each call (an environment "
        "written in JAX is given itself, without a function)"
    )


def name_of_function(factory: Callable) -> str:
    """The name of a function or class, without its module; that of the class of other callables."""
    while isinstance(factory, partial):
        factory = factory.func
    named = factory if hasattr(factory, "__name__") else type(factory)
    return named.__name__.strip("<>")  # of a lambda, "lambda"


def is_picklable(factory: Callable) -> bool:
    """Return whether another process can have this function: by pickle, and by its module's name.

    Neither can a lambda, nor a function of a notebook, whose `__main__` is not a file.
    """
    try:
        pickled = bytes(ForkingPickler.dumps(factory))
    except Exception:  # of many types, and a user's `__reduce__` may raise any
        return False
    return b"__main__" not in pickled or hasattr(sys.modules["__main__"], "__file__")
