"""What the training loop, evaluation and other callers ask of an algorithm: its protocols."""

from typing import Any, Protocol, dataclass_transform

from etude.errors import InvalidInput
from etude.spaces import EnvironmentSpec
from etude.struct import struct, validate
from etude.types import Array, Metrics


class Policy(Protocol):
    """What acts: evaluation, rendering and rollouts need nothing else.

    Its methods are pure functions, for they are traced. Observations, actions and memories are
    [env, ...], with one row for each parallel environment; `state` is the algorithm's own.
    """

    def initial_memory(self, state: Any, spec: EnvironmentSpec, key: Array) -> Any:
        """The memory with which an episode begins in each environment, [env, ...].

        It is a recurrent state of zeros, a goal that is drawn, a plan to start from, or () without
        memory. A rollout computes it at every step, for the environments whose episode is over.
        """
        return ()

    def act(
        self, state: Any, observation: Any, memory: Any, key: Array, explore: bool
    ) -> tuple[Any, Any]:
        """The action and the next memory, of the same shapes and dtypes as `initial_memory`.

        A rollout stores the next memory with the transition and passes it to the next `act`; where
        the episode is over, it passes the initial memory. `explore` is a Python bool: True for the
        behavior policy, which collects experience, False for the policy that is evaluated.
        """
        ...


class Algorithm(Policy, Protocol):
    """A policy with hyperparameters and two more methods, `init` and `update`.

    Make its class with the decorator `algorithm`.
    """

    rollout_length: int  # environment steps of each environment per update
    default_num_envs: int  # parallel environments, where a run does not say how many

    def init(self, key: Array, spec: EnvironmentSpec) -> Any:
        """The state before training: parameters, optimizer, replay buffer.

        Raises InvalidInput for spaces that it cannot take.
        """
        ...

    def update(self, state: Any, experience: Any, key: Array) -> tuple[Any, Metrics]:
        """The next state and metrics, from a Transition of one rollout, [time, env, ...].

        Where a transition is truncated, the value of its next_observation stands for the future.
        Each metric is a number [], the mean over the update's gradient steps; the number of
        gradient steps is under "updates", and where it is 0 the metrics are ignored.
        """
        ...


@dataclass_transform(frozen_default=True)
def algorithm(cls):
    """Make a class an algorithm: a frozen struct, with defaults for what it leaves undefined.

    The defaults are an `initial_memory` of () and 1 as `default_num_envs`, which is an attribute of
    the class and no hyperparameter.
    """
    defaults = {"initial_memory": Policy.initial_memory, "default_num_envs": 1}
    for name, default in defaults.items():
        if not hasattr(cls, name):
            setattr(cls, name, default)
    return struct(cls)


def check_algorithm(algorithm: Any) -> None:
    """Check that an object is an algorithm whose hyperparameters are within their bounds.

    Raises InvalidInput, naming what is missing, or the hyperparameter, its value and what is
    allowed.
    """
    names = ("init", "initial_memory", "act", "update", "rollout_length", "default_num_envs")
    undefined = (Algorithm.init, Algorithm.act, Algorithm.update)  # as the protocol leaves them
    if missing := [
        name
        for name in names
        if not hasattr(algorithm, name) or getattr(type(algorithm), name, None) in undefined
    ]:
        raise InvalidInput(
            f"{type(algorithm).__name__} has no {' and no '.join(missing)}; an algorithm is a "
            "class with init, act, update and rollout_length under the decorator @etude.algorithm"
        )
    validate(algorithm)
