"""What the training loop, evaluation and other callers ask of an algorithm: its protocols."""

from typing import Any, Protocol, dataclass_transform

from etude.errors import InvalidInput
from etude.spaces import EnvironmentSpec
from etude.struct import struct, validate
from etude.types import Array, Metrics


class Policy(Protocol):
    """What acts: evaluation, rendering and rollouts need nothing else.

    Observations, actions and memories are [env, ...].
    """

    def initial_memory(self, state: Any, spec: EnvironmentSpec, key: Array) -> Any:
        """The memory with which an episode begins, for every copy of the environment [env, ...].

        A recurrent state of zeros, a goal that is drawn, a plan to start from; () without memory.
        """
        ...

    def act(
        self, state: Any, observation: Any, memory: Any, key: Array, explore: bool
    ) -> tuple[Any, Any]:
        """The action and the next memory, which has the structure of `initial_memory`.

        The next call receives that memory, and the experience holds it.
        """
        ...


class Algorithm(Policy, Protocol):
    """Hyperparameters, a policy and two methods more, `init` and `update`.

    Make its class with the decorator `algorithm`.
    """

    rollout_length: int  # environment steps of each copy per update
    default_num_envs: int  # copies of the environment, where a run does not say how many

    def init(self, key: Array, spec: EnvironmentSpec) -> Any:
        """The state before training. Raises InvalidInput for spaces that it cannot take."""
        ...

    def update(self, state: Any, experience: Any, key: Array) -> tuple[Any, Metrics]:
        """The next state and metrics, from the experience of one rollout [time, env, ...].

        Each metric is the mean over the update's gradient steps, whose number is under "updates".
        The metrics of an update of zero gradient steps are not counted.
        """
        ...


@dataclass_transform(frozen_default=True)
def algorithm(cls):
    """Make a class an algorithm: a struct, with what it need not define itself.

    Without a method of its own, `initial_memory` is (): the policy has no memory. Without a value
    of its own, `default_num_envs` is 1.
    """
    for name, default in (("initial_memory", _no_memory), ("default_num_envs", 1)):
        if not hasattr(cls, name):
            setattr(cls, name, default)
    return struct(cls)


def _no_memory(self, state, spec, key):
    return ()


def check_algorithm(algorithm: Any) -> None:
    """Check that an object is an algorithm whose hyperparameters are within their bounds.

    Raises InvalidInput, naming what is missing, or the hyperparameter, its value and what is
    allowed.
    """
    names = ("init", "initial_memory", "act", "update", "rollout_length", "default_num_envs")
    if missing := [name for name in names if not hasattr(algorithm, name)]:
        raise InvalidInput(
            f"{type(algorithm).__name__} has no {' and no '.join(missing)}; an algorithm is a "
            "class with init, act, update and rollout_length under the decorator @etude.algorithm"
        )
    validate(algorithm)
