"""What the training loop, evaluation and other callers ask of an algorithm: its protocols."""

from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any, NamedTuple, Protocol, dataclass_transform

import jax

from etude.algorithms.assumptions import Assumptions, check_spaces
from etude.data.dataset import Dataset
from etude.data.replay.ring_buffer import Indices, RingBuffer, truncate_newest
from etude.data.transition import ReplayBatch, Transition
from etude.errors import InvalidInput
from etude.models.known_functions import KnownFunctions
from etude.spaces import EnvironmentSpec, Space
from etude.struct import static, struct, validate
from etude.types import Array, Metrics


class Policy(Protocol):
    """What acts: evaluation, rendering and rollouts need nothing else.

    Its methods are pure functions, for they are traced. Observations, actions and memories are
    [env, ...], with one row for each parallel environment; `state` is the algorithm's own.
    """

    needs: tuple[str, ...]  # the fields of Outside that it cannot do without: "dataset", "expert"

    def initial_memory(self, state: Any, spec: EnvironmentSpec, key: Array) -> Any:
        """The memory with which an episode begins in each environment, [env, ...].

        It is a recurrent state of zeros, a goal that is drawn, a plan to start from, or () without
        memory. A rollout computes it at every step, for the environments whose episode is over. In
        training, a policy that `needs` something from outside gets it as in `act`.
        """
        return ()

    def act(
        self, state: Any, observation: Any, memory: Any, key: Array, explore: bool
    ) -> tuple[Any, Any]:
        """The action and the next memory, of the same shapes and dtypes as `initial_memory`.

        A rollout stores the next memory with the transition and passes it to the next `act`; where
        the episode is over, it passes the initial memory. `explore` is a Python bool: True for the
        behavior policy, which collects experience, False for the policy that is evaluated. In
        training, a policy that `needs` something from outside gets an Outside as the last argument;
        elsewhere, also where it explores, it does not.
        """
        ...


@struct
class Expert:
    """A policy that an algorithm asks for actions. Its arrays are traced, its functions static.

    Most experts are asked in every state. One that takes over and gives back, as a person does, has
    an action only where it `has_control`.
    """

    state: Any
    policy: Policy = static()
    has_control: Array | None = None  # bool [env]; None for an expert that is asked in every state


@struct
class Outside:
    """What reaches an algorithm from outside of its run, the same for all seeds.

    Its arrays are traced: they are arguments of the compiled program, not saved with the state.
    """

    dataset: Dataset | None = None
    expert: Expert | None = None


NOTHING = Outside()
# what to do about a function among the arrays of a state
PARTITION = (
    "an Equinox module has functions among its leaves, such as an activation: split it with "
    "equinox.partition(module, equinox.is_inexact_array), keep the arrays in the state and the "
    "rest in a static field, and give the arrays alone to optimizers and derivatives"
)


class Evaluable(Protocol):
    """What an algorithm is in place of a Policy where it has nothing to act with: a fitted model.

    It does not play. It needs a dataset, and is judged on one.
    """

    def evaluate(self, state: Any, outside: Outside, key: Array) -> Metrics:
        """How well the state does on the dataset of `outside`: numbers [] by their names."""
        ...


class Component(NamedTuple):
    """A part of an algorithm's state, such as its policy, that a run can start from another with.

    Two algorithms have the same component if they have the same `get`, or that of the agent in a
    field that has it.
    """

    get: Callable[[Any], Any]  # state -> the part
    put: Callable[[Any, Any], Any] | None  # state, part -> state; None if no run can start with it
    settings: tuple[str, ...]  # hyperparameters that must be equal in both runs
    # algorithm, num_envs -> the algorithm with settings that suit such a start
    prepare: Callable[[Any, int], Any] = lambda algorithm, num_envs: algorithm
    kind: str = ""  # the settings that make it what few others can start with
    of_agent: "Component | None" = None  # what it is of the agent in the field `agent`, if it is so


class Algorithm(Policy, Protocol):
    """A policy with hyperparameters and two more methods, `init` and `update`.

    One that has nothing to act with is an Evaluable: in place of `act` it has `evaluate`.

    Make its class with the decorator `algorithm`. `init` and `update` of an algorithm that `needs`
    or `takes` something from outside get an Outside as their last argument; what it takes may be
    None there.
    """

    plays: bool  # False: no rollout, and a step of the budget is a gradient step
    learns: bool  # False: no update changes the state
    takes: tuple[str, ...]  # the fields of Outside that it reads where they are given
    # False: of a dataset it reads what was observed before each action, and nothing that came of it
    reads_next_observations: bool
    assumes: Assumptions  # what it takes for granted of the environment
    rollout_length: int  # environment steps of each environment per update
    takes_interventions: bool  # whether its expert may be one that has control only now and then
    default_num_envs: int  # parallel environments, where a run does not say how many
    components: Mapping[str, Component]  # parts that runs can start from another with, by name

    def init(self, key: Array, spec: EnvironmentSpec) -> Any:
        """The state before training: parameters, optimizer, replay buffer.

        The spaces of `spec` are among those that it `assumes`: `init_state` has checked them.
        """
        ...

    def update(self, state: Any, experience: Any, key: Array) -> tuple[Any, Metrics]:
        """The next state and metrics, from a Transition of one rollout, [time, env, ...].

        Where a transition is truncated, the value of its next_observation stands for the future.
        Where the algorithm does not play, `experience` is (). Each metric is a number [], the mean
        over the update's gradient steps; the number of gradient steps is under "updates", and where
        it is 0 the metrics are ignored.
        """
        ...

    def steps_per_update(self, num_envs: int) -> int:
        """Steps of the budget in one update: environment steps, or gradient steps if not playing.

        By default they are those of a rollout in `num_envs` environments.
        """
        return self.rollout_length * num_envs

    def final_measures(self, state: Any, memory: Any, observation: Any) -> dict[str, Array]:
        """What an evaluation tells of an episode beside its return: numbers [env] by their names.

        It is called at the end of an episode, with the memory after the last action and the true
        last observation. By default there is nothing to tell.
        """
        return {}

    def truncate_episodes(self, state: Any, is_cut: Array) -> Any:
        """The state after the running episodes of the environments in `is_cut` [env] were cut off.

        A resumed run cuts an episode off where its simulator cannot be brought back; the next
        experience of that environment begins a new one. By default, the newest transition of each
        of them is truncated in every RingBuffer of the state.
        """
        is_buffer = lambda node: (
            isinstance(node, RingBuffer) and isinstance(node.storage, Transition)
        )
        return jax.tree.map(
            lambda node: truncate_newest(node, is_cut) if is_buffer(node) else node,
            state,
            is_leaf=is_buffer,
        )

    def first_update(self, num_envs: int) -> tuple[int, str]:
        """(steps of the budget before which nothing is learned, the setting that says so)."""
        return self.steps_per_update(num_envs), "one update"

    def check_outside(self, outside: Outside) -> None:
        """Raise InvalidInput for what reaches a run from outside and does not fit the settings.

        It is called on the host before training, where arrays have values.
        """

    def known_functions(self, spec: EnvironmentSpec) -> KnownFunctions:
        """What it takes as known of the environment's steps; training first tries it on some."""
        return KnownFunctions()

    def is_deterministic(self, action_space: Space) -> bool:
        """Return whether `act`, without `explore`, draws nothing at random."""
        return True

    def remarks(self, num_envs: int, steps: int) -> tuple[str, ...]:
        """What to know of settings that a run of `steps` takes, but not as they were given."""
        return ()


# agent's state, replay buffer, indices [batch], the batch at them, key -> the batch to learn from.
# The batch of a recurrent agent is [time, batch], with Histories as observations, and its indices
# are those of the rows before its sequences. New rows are appended, for with prioritized replay the
# first rows stand for the indices.
Relabel = Callable[[Any, RingBuffer, Indices, ReplayBatch, Array], ReplayBatch]


class OffPolicy(Algorithm, Protocol):
    """An algorithm that learns from replay, as another that wraps it sees it: DQN, NAF, TD3, SAC.

    A model-based algorithm adds imagined rows to its agent's batches so, and imitation learning
    takes rewards of its own.
    """

    def update(
        self, state: Any, experience: Any, key: Array, *, relabel: Relabel | None = None
    ) -> tuple[Any, Metrics]:
        """The next state and metrics, after gradient steps on batches of replay.

        Before each of them, `relabel` may change its batch: rewards, goals, next observations and
        their discounts, the number of rows. Its first argument is the state at that gradient step,
        but for its replay buffer, which is the second.
        """
        ...

    def gradient_step(self, state: Any, batch: ReplayBatch, key: Array) -> tuple[Any, Metrics]:
        """The next state and metrics, after one gradient step on any number of rows."""
        ...

    def value(self, state: Any, observation: Any, memory: Any, key: Array) -> Array:
        """V(s) [env], from which the agent's own targets bootstrap, by its target networks.

        It is Q of the greedy or target action, or SAC's E[Q - α log π]. `memory` is that before
        `observation` is read, as `act` takes it.
        """
        ...


def no_memory(self: Any, state: Any, spec: EnvironmentSpec, key: Array, *outside: Outside) -> Any:
    """(): the algorithm remembers nothing."""
    return ()


DEFAULTS = {
    "initial_memory": no_memory,
    "steps_per_update": Algorithm.steps_per_update,
    "final_measures": Algorithm.final_measures,
    "truncate_episodes": Algorithm.truncate_episodes,
    "first_update": Algorithm.first_update,
    "check_outside": Algorithm.check_outside,
    "remarks": Algorithm.remarks,
    "known_functions": Algorithm.known_functions,
    "is_deterministic": Algorithm.is_deterministic,
    "needs": (),
    "takes": (),
    "reads_next_observations": True,
    "plays": True,
    "learns": True,
    "takes_interventions": False,
    "assumes": Assumptions(),
    "default_num_envs": 1,
    "components": MappingProxyType({}),
}


@dataclass_transform(frozen_default=True)
def algorithm(cls):
    """Make a class an algorithm: a frozen struct, with defaults for what it leaves undefined.

    By default it has no memory, needs and takes nothing from outside, plays, learns, draws nothing
    at random where it does not explore, asks an expert at every step, assumes no kind of space,
    plays in one environment and has no components. These are attributes of the class and no
    hyperparameters.
    """
    for name, default in DEFAULTS.items():
        if not hasattr(cls, name):
            setattr(cls, name, default)
    return struct(cls)


def reads_outside(algorithm: Any, field: str) -> bool:
    """Whether an algorithm needs or takes this field of Outside."""
    return field in (*algorithm.needs, *algorithm.takes)


def outside_arguments(algorithm: Any, outside: Outside) -> tuple[Outside, ...]:
    """The last argument of an algorithm's methods: `outside` if it reads any of it, else none."""
    return (outside,) if algorithm.needs or algorithm.takes else ()


def init_state(
    algorithm: Algorithm,
    key: Array,
    spec: EnvironmentSpec,
    outside: Outside = NOTHING,
    name: str = "",
) -> Any:
    """The state of an algorithm before training; `name` is what messages call it, else its class.

    Raises InvalidInput for spaces that the algorithm does not take, for settings that do not fit to
    the environment, and for a state that holds more than arrays.
    """
    name = name or type(algorithm).__name__
    check_spaces(algorithm.assumes, spec, name)
    try:
        state = algorithm.init(key, spec, *outside_arguments(algorithm, outside))
    except TypeError as error:
        if "custom_jvp" not in str(error) and "<function" not in str(error):
            raise
        raise InvalidInput(f"init of {name} raised TypeError: {error}; {PARTITION}") from error
    for path, leaf in jax.tree_util.tree_leaves_with_path(state):
        if callable(leaf):
            place = jax.tree_util.keystr(path)
            raise InvalidInput(f"the state of {name} holds a function at {place}; {PARTITION}")
    return state


def put_components(algorithm: Algorithm, state: Any, parts: Mapping[str, Any]) -> Any:
    """The state of an algorithm with components of another run, by name.

    Raises InvalidInput for one that the algorithm cannot start with.
    """
    for name, part in parts.items():
        component = algorithm.components.get(name)
        if component is None or component.put is None:
            raise InvalidInput(f"{type(algorithm).__name__} cannot start with a {name}")
        state = component.put(state, part)
    return state


def acts(algorithm: Any) -> bool:
    """Whether an algorithm is a Policy; otherwise it is an Evaluable."""
    return _defines(algorithm, "act")


def check_algorithm(algorithm: Any) -> None:
    """Check that an object is an algorithm whose hyperparameters are within their bounds.

    Raises InvalidInput, naming what is missing, or the hyperparameter, its value and what is
    allowed.
    """
    name = type(algorithm).__name__
    required = ["init", "act", "update", "rollout_length"]
    if _defines(algorithm, "evaluate"):
        required.remove("act")
    if _defines(algorithm, "steps_per_update"):
        required.remove("rollout_length")
    missing = [method for method in required if not _defines(algorithm, method)]
    if missing or not all(hasattr(algorithm, default) for default in DEFAULTS):
        lack = f"has no {' and no '.join(missing)}" if missing else "is no algorithm yet"
        raise InvalidInput(
            f"{name} {lack}; an algorithm is a class with init, act, update and rollout_length "
            "under the decorator @etude.algorithm"
        )
    if not acts(algorithm) and (algorithm.plays or "dataset" not in algorithm.needs):
        raise InvalidInput(
            f"{name} has evaluate and no act, so it cannot play and is judged on a dataset; set "
            'plays to False and needs to ("dataset",)'
        )
    validate(algorithm)


def _defines(algorithm: Any, name: str) -> bool:
    """Whether an algorithm has a `name` of its own, not the empty one of a protocol."""
    empty = [vars(protocol).get(name) for protocol in (Policy, Algorithm, Evaluable)]
    return hasattr(algorithm, name) and getattr(type(algorithm), name, None) not in (
        method for method in empty if method is not None
    )
