"""Experts: policies that act but do not learn, given by a name, by a run or as a function.

random, heuristic, mpc, mcts   an algorithm that learns nothing
person                         whoever sits at the keyboard; see `etude.runs.person`
runs/dqn-CartPole-v1-…         the directory of a run: the policy of its first seed
module:function                a function of one observation that returns one action
"""

import dataclasses
import difflib
from collections.abc import Callable
from functools import partial
from operator import itemgetter
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from etude.algorithms import ALGORITHMS, algorithm_class, registered_name
from etude.algorithms.protocol import Algorithm, Expert, check_algorithm, init_state, reads_outside
from etude.data.replay.prioritized import Priorities
from etude.data.replay.ring_buffer import RingBuffer
from etude.data.transition import zeros_like_spec
from etude.environments.backends.host_callback import host_call
from etude.environments.factories import name_of_function
from etude.environments.sources import EnvironmentLike
from etude.errors import ExpertFault, InvalidInput
from etude.importing import import_object, is_importable
from etude.kinds import qualified_name
from etude.nn.action_masks import action_mask
from etude.runs.config_values import plain_fields
from etude.runs.defaults import defaults_for
from etude.runs.options import PERSON, is_person
from etude.runs.person import person_expert
from etude.runs.run import Run, load_beside
from etude.runs.settings import ExpertRecord
from etude.runs.torsos import TorsoLike, find_torso
from etude.spaces import (
    ACTION_MASK,
    Box,
    Composite,
    Discrete,
    EnvironmentSpec,
    from_environment_action,
    same_space,
    to_environment_observation,
    value_bounds,
)
from etude.storage.files import CorruptFile
from etude.trees import content_hash
from etude.types import Array

ExpertLike = str | Path | Run | Algorithm | Callable[[Any], Any]


def make_expert(
    expert: ExpertLike,
    environment: EnvironmentLike,
    spec: EnvironmentSpec,
    key: Array,
    warn: Callable[[str], None] = lambda text: None,
    torso: TorsoLike | None = None,
) -> Expert:
    """The expert that a user asks for, to act in an environment.

    Args:
        expert: the name of an algorithm that learns nothing, which has its preset for the
            environment; the directory of a run, whose first seed acts; or module:function, which
            is imported, so it comes from a person and never from a file. In Python also such an
            algorithm, a Run or a function itself. A function takes one observation, an array or a
            dict or tuple of arrays, and returns one action, both in the environment's own units.
        environment: the environment, for the preset, and for a run on the same object.
        spec: the spaces that the expert observes and acts in, and the environment's id.
        key: of the algorithm's initial state.
        warn: is told of a damaged checkpoint that is passed over.
        torso: that of the run, if the expert is the directory of one with a torso.

    Returns:
        The expert, whose policy acts inside a compiled program. Run that program with
        `etude.training.run_compiled`: a function that raises an error raises ExpertFault, and one
        whose action is not in the environment's space InvalidInput.

    Raises:
        InvalidInput: for what is no expert, and for an expert of other spaces.
    """
    if is_person(expert):
        return person_expert(spec)
    found, name = find_expert(expert, environment, torso), expert_name(expert)
    if torso is not None and not (isinstance(found, Run) and found.settings.torso):
        raise InvalidInput(
            f"torso is {qualified_name(find_torso(torso))}, and the expert {name} has none; leave "
            "it out"
        )
    return expert_of(found, name, spec, key, warn)


def expert_of(
    found: Any,
    name: str,
    spec: EnvironmentSpec,
    key: Array,
    warn: Callable[[str], None] = lambda text: None,
) -> Expert:
    """The expert of what `find_expert` returns, which messages call `name`; see `make_expert`."""
    if isinstance(found, Run):
        return expert_of_run(found, name, spec, warn)
    if callable(found):
        return Expert((), FunctionPolicy(found, name, spec))
    check_algorithm(found)
    check_learns_nothing(found, name)
    return Expert(jax.jit(partial(init_state, found, spec=spec, name=name))(key), found)


def check_expert(algorithm: Any, name: str, expert: ExpertLike | None) -> None:
    """Raise InvalidInput for an expert that the algorithm called `name` takes none of, and without
    one that it needs."""
    if "expert" in algorithm.needs and expert is None:
        raise InvalidInput(
            f"{name} needs an expert; give one with --expert (in Python expert=...): "
            f"{expert_forms()}"
        )
    if expert is not None and not reads_outside(algorithm, "expert"):
        raise InvalidInput(
            f"expert is {expert_name(expert)}, and {name} takes none; leave it out, or record its "
            "episodes with `etude record`, for an algorithm that reads a dataset"
        )


def open_expert(
    expert: ExpertLike,
    environment: EnvironmentLike,
    spec: EnvironmentSpec,
    seed: int,
    torso: TorsoLike | None = None,
) -> tuple[Expert, ExpertRecord]:
    """The expert of a run, and its record for config.json; raises as `make_expert`.

    `torso` is that of the learner, and of the expert too, if it is the directory of a run with one.
    An expert with another torso is loaded with that (`etude.load`) and given as a Run.
    """
    key, (kind, name) = jax.random.key(seed), identify(expert)
    if is_person(expert):
        made = person_expert(spec)
    else:
        made = expert_of(find_expert(expert, environment, torso), expert_name(expert), spec, key)
    memory = jax.eval_shape(lambda: made.policy.initial_memory(made.state, spec, key))
    for leaf in jax.tree.leaves(memory):
        if jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key):
            raise InvalidInput(
                f"the memory of the expert {name} holds a typed key of jax.random, which no "
                "checkpoint can; keep jax.random.key_data of it"
            )
    hyperparameters = () if isinstance(made.policy, FunctionPolicy) else plain_fields(made.policy)
    return made, ExpertRecord(
        name=name,
        kind=kind,
        sha256=content_hash((made.state, np.frombuffer(repr(hyperparameters).encode(), np.uint8))),
        memory=tuple(f"{x.dtype}{list(x.shape)}" for x in jax.tree.leaves(memory)),
    )


def reopen_expert(
    record: ExpertRecord,
    expert: ExpertLike | None,
    environment: EnvironmentLike,
    spec: EnvironmentSpec,
    seed: int,
    torso: TorsoLike | None = None,
) -> Expert:
    """The expert of a run that is resumed: the one that is given, else the one that it began with.

    A function and an object have to be given again, for a file never makes etude import a module.
    Raises InvalidInput where there is none any more, or another one, and CorruptFile for a record
    that `open_expert` does not make.
    """
    if (
        record.kind not in ("algorithm", "run", "function", "object", PERSON)
        or (record.kind == "algorithm" and record.name not in ALGORITHMS)
        or (record.kind == PERSON and record.name != PERSON)
    ):
        raise CorruptFile(
            f"config.json gives the expert {record.name!r:.80} as {record.kind!r:.80}"
        )
    if expert is None and record.kind in ("function", "object"):
        way = (
            f"add --expert {record.name} (in Python expert=..., the function)"
            if record.kind == "function"
            else "go on in Python, with etude.resume(path, expert=...)"
        )
        raise InvalidInput(
            f"the expert of this run is {record.name}, which no file can name; {way}"
        )
    if expert is None and record.kind == "run" and not Path(record.name).is_dir():
        raise InvalidInput(
            f"the expert of this run is {record.name}, which is not there; say with --expert "
            "where it is now"
        )
    asked = record.name if expert is None else expert
    made, found = open_expert(asked, environment, spec, seed, torso)
    is_same = (found.kind, found.sha256, found.memory) == (
        record.kind,
        record.sha256,
        record.memory,
    )
    if not is_same or (found.kind != "run" and found.name != record.name):
        raise InvalidInput(
            f"the expert of this run is {record.name} ({record.kind}, hash {record.sha256[:12]}), "
            f"and {found.name} ({found.kind}, {found.sha256[:12]}) is another; give the one that "
            "it began with"
        )
    return made


def identify(expert: ExpertLike) -> tuple[str, str]:
    """(kind, name) of an expert in config.json; see `ExpertRecord`."""
    match expert:
        case Run():
            return "run", str(expert.directory)
        case Path():
            return "run", str(expert.absolute())
        case str():
            if is_person(expert):
                return PERSON, PERSON
            if expert in ALGORITHMS:
                return "algorithm", expert
            is_run = Path(expert).exists()
            return ("run", str(Path(expert).absolute())) if is_run else ("function", expert)
    is_named = callable(expert) and hasattr(expert, "__qualname__")
    if is_named and is_importable(name := qualified_name(expert)):
        return "function", name
    return "object", expert_name(expert)


def find_expert(
    expert: ExpertLike, environment: EnvironmentLike, torso: TorsoLike | None = None
) -> Any:
    """What `expert` names: a Run, an algorithm or a function; raises InvalidInput for none."""
    if isinstance(expert, str) and expert in ALGORITHMS:
        check_learns_nothing(algorithm_class(expert), expert)
        return defaults_for(expert, environment)[0]
    if isinstance(expert, Path) or (isinstance(expert, str) and Path(expert).exists()):
        return load_beside(Path(expert), environment, torso)
    if isinstance(expert, str):
        if ":" not in expert:
            raise InvalidInput(unknown_expert(expert))
        expert = import_object("expert", expert)
    if isinstance(expert, type):
        if not dataclasses.is_dataclass(expert):
            raise InvalidInput(
                f"expert is the class {expert.__name__}; give a function of one observation, or an "
                "object of the class"
            )
        return expert()
    if not (isinstance(expert, Run) or callable(expert) or dataclasses.is_dataclass(expert)):
        raise InvalidInput(f"expert is {expert!r:.80}; give {expert_forms()}")
    return expert


def unknown_expert(text: str) -> str:
    """The message for a text that names no expert: near names, and the forms there are."""
    names = names_without_learning()
    runs = [str(config.parent) for config in Path(text).parent.glob("*/config.json")]
    close_matches = difflib.get_close_matches(text, [*names, *runs], n=2, cutoff=0.5)
    hint = f"did you mean {' or '.join(close_matches)}? " if close_matches else ""
    return f"no expert is called {text!r}; {hint}give {expert_forms()}"


def expert_forms() -> str:
    """The forms of an expert, in a message."""
    return (
        f"an algorithm that learns nothing ({', '.join(names_without_learning())}), {PERSON}, the "
        "directory of a run, or module:function, a function of one observation that returns one "
        "action"
    )


def names_without_learning() -> list[str]:
    """The names of the algorithms that learn nothing."""
    return [name for name in ALGORITHMS if not algorithm_class(name).learns]


def expert_name(expert: ExpertLike) -> str:
    """An expert in messages and tables."""
    match expert:
        case str() | Path():
            return str(expert)
        case Run():
            return str(expert.shown_directory)
    return name_of_function(expert) if callable(expert) else registered_name(expert)


def check_learns_nothing(algorithm: Any, name: str) -> None:
    """Raise InvalidInput for an algorithm, or a class of one, that has to be trained first."""
    if algorithm.learns:
        raise InvalidInput(
            f"expert is {name}, which has to learn before it can act; train it, and give the "
            "directory of the run"
        )


def expert_of_run(
    run: Run, name: str, spec: EnvironmentSpec, warn: Callable[[str], None]
) -> Expert:
    """The policy of a run's first seed; raises InvalidInput where the run has other spaces."""
    source = run.settings.source
    trained = source.outline(1, source.evaluation_backend).spec
    for role in ("observation", "action"):
        learned, asked = getattr(trained, role), getattr(spec, role)
        if not same_space(learned, asked):
            raise InvalidInput(
                f"the {role} space of the run {name}, on {run.settings.environment}, is {learned}, "
                f"and that of {spec.id or 'the environment'} is {asked}; give a run on this "
                "environment, with the same frame stack and action masks"
            )
    algorithm = run.settings.algorithm
    return Expert(without_replay(algorithm, run.states(warn)[0], spec), algorithm)


def without_replay(algorithm: Algorithm, state: Any, spec: EnvironmentSpec) -> Any:
    """The state without its replay buffers, where the algorithm acts without them: as it was, else.

    So an expert is known by what acts, and does not take the memory of what it learned from.
    """
    is_replay = lambda node: isinstance(node, RingBuffer | Priorities)
    rest = jax.tree.map(lambda x: () if is_replay(x) else x, state, is_leaf=is_replay)

    def act(state, key):
        observation = jax.tree.map(
            lambda x: jnp.zeros((spec.num_envs, *x.shape), x.dtype),
            zeros_like_spec(spec).observation,
        )
        memory = algorithm.initial_memory(state, spec, key)
        return algorithm.act(state, observation, memory, key, False)

    try:
        jax.eval_shape(act, rest, jax.random.key(0))
    except Exception:  # whatever an algorithm that looks into its buffer meets there
        return state
    return rest


class FunctionPolicy:
    """A user's function of one observation as a policy, which calls it on the host.

    It is called for one row of a batch after the other. The function sees arrays that are its own
    to keep; what it returns is checked against the action space.
    """

    needs: tuple[str, ...] = ()

    def __init__(self, function: Callable[[Any], Any], name: str, spec: EnvironmentSpec):
        if isinstance(spec.action, Composite):
            raise InvalidInput(
                f"expert {name} is a function, which returns an action that is one array, and this "
                f"environment's are {spec.action}"
            )
        self.function, self.name, self.spec = function, name, spec
        self.action_type = jax.eval_shape(partial(zeros_like_spec, spec)).action

    def initial_memory(self, state: Any, spec: EnvironmentSpec, key: Array) -> Any:
        """(): a function has no memory that etude knows of."""
        return ()

    def act(
        self, state: Any, observation: Any, memory: Any, key: Array, explore: bool
    ) -> tuple[Array, Any]:
        """The function's action of each copy, [env, *action], exploring or not.

        Under `vmap`, as over seeds, the rows of all copies are one batch.
        """

        @jax.custom_batching.custom_vmap
        def act_on(observation):
            num_rows = len(jax.tree.leaves(observation)[0])
            shape = (num_rows, *self.action_type.shape)
            actions = jax.ShapeDtypeStruct(shape, self.action_type.dtype)
            return host_call(self._act_on_rows, actions, observation)

        @act_on.def_vmap
        def act_on_batches(size, is_batched, observation):
            def rows_of(x, has_batches):
                x = x if has_batches else jnp.broadcast_to(x, (size, *x.shape))
                return x.reshape(-1, *x.shape[2:])

            rows = jax.tree.map(rows_of, observation, *is_batched)
            action = act_on(rows)
            return action.reshape(size, -1, *action.shape[1:]), True

        return act_on(observation), memory

    def _act_on_rows(self, observation):
        rows = to_environment_observation(self.spec.observation, observation)
        num_rows = len(jax.tree.leaves(rows)[0])
        return np.stack(
            [self._act_on_row(jax.tree.map(itemgetter(i), rows)) for i in range(num_rows)]
        )

    def _act_on_row(self, observation):
        try:
            action = self.function(observation)
        except Exception as error:
            raise ExpertFault(
                f"expert {self.name} raised {type(error).__name__}: {error}"
            ) from error
        policy_action = self.to_policy_action(action)
        if not self.is_legal(observation, policy_action):
            raise InvalidInput(
                f"expert {self.name} returned {action!r:.80}, which the {ACTION_MASK} of its "
                "observation forbids; return an action that it allows"
            )
        return policy_action

    def is_legal(self, observation: Any, policy_action: np.ndarray) -> bool:
        """Whether the mask of an observation, if it has one, allows an action in policy's units."""
        space = self.spec.action
        mask = action_mask(self.spec.observation, space, observation)
        if mask is None:
            return True
        sizes = (space.n,) if isinstance(space, Discrete) else space.sizes
        first_choices = np.cumsum((0, *sizes[:-1]))
        return bool(np.asarray(mask)[first_choices + np.ravel(policy_action)].all())

    def to_policy_action(self, action: Any) -> np.ndarray:
        """An action of the function in the policy's units; raises InvalidInput for no action."""
        space = self.spec.action
        is_real = isinstance(space, Box) and np.issubdtype(space.dtype, np.floating)
        low, high = value_bounds(space)
        try:
            array = np.asarray(action)
        except ValueError:  # rows of several lengths
            array = np.array(None)
        is_number = array.dtype.kind in ("biuf" if is_real else "biu")
        # the bounds of a Box are rounded too
        rounded = array.astype(np.float32) if is_number and isinstance(space, Box) else array
        if not (
            is_number
            and array.shape == self.action_type.shape
            and ((low <= rounded) & (rounded <= high)).all()
        ):
            raise InvalidInput(
                f"expert {self.name} returned {action!r:.80}, and the action space is {space}; "
                "return one action that is in it, in the environment's own units"
            )
        return from_environment_action(space, array if is_real else array.astype(np.int64))
