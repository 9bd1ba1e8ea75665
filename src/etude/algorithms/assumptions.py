"""What an algorithm assumes of an environment, and the refusal of one with other spaces."""

from typing import Any, Literal, NamedTuple

import numpy as np

from etude.environments.goal_spaces import entries_of, goal_space, has_distance, shows_goal
from etude.errors import InvalidInput
from etude.nn.action_masks import check_mask, mask_space, space_beside_mask
from etude.spaces import (
    ACHIEVED_GOAL,
    ACTION_MASK,
    DESIRED_GOAL,
    Box,
    Composite,
    Discrete,
    EnvironmentSpec,
    MultiBinary,
    MultiDiscrete,
    Space,
    leaves_with_path,
)

ActionKind = Literal["Discrete", "bounded Box", "Box", "MultiDiscrete", "MultiBinary"]
EVERY_ACTION: tuple[ActionKind, ...] = ("Discrete", "Box", "MultiDiscrete", "MultiBinary")
WRAP = "wrap it in one whose actions are a Box, Discrete, MultiDiscrete or MultiBinary"


class Assumptions(NamedTuple):
    """What an algorithm assumes of an environment.

    The spaces are checked before training. What the spaces do not tell is documentation:
    `docs/algorithms.md` is made from it.
    """

    actions: tuple[ActionKind, ...] = EVERY_ACTION  # the kinds of action space that it takes
    discrete_observations: bool = False  # observations are numbers of states, for it has a table
    vector_observations: bool = False  # observations are vectors of floats, which it predicts
    episodes: bool = False  # episodes end, for it learns from whole ones
    full_observation: bool = True  # the observation determines what can happen next (Markov)
    smooth: bool = False  # dynamics and rewards have derivatives, which it follows
    because_of: str = ""  # the setting that leaves these spaces alone, if one does
    known_model: bool = False  # etude has the environment's dynamics, see `etude.register_model`
    action_masks: bool = False  # it never chooses, nor values, what an observation's mask forbids
    goals: bool = False  # observations are a Dict with the keys desired_goal and achieved_goal
    distances: bool = False  # goals have a Box, in which the distance to them is measured
    goal: tuple[str, ...] = ()  # the parts of an observation that are the goal, if they are named


def check_spaces(assumptions: Assumptions, spec: EnvironmentSpec, name: str) -> None:
    """Raise InvalidInput for spaces that the algorithm called `name` does not take."""
    action, kinds = spec.action, assumptions.actions
    subject = name + (f" with {assumptions.because_of}" if assumptions.because_of else "")
    if not is_kind(action, *kinds):
        way_out = "ppo takes every kind of action" if is_kind(action, *EVERY_ACTION) else WRAP
        raise InvalidInput(
            f"{subject} takes {_listed(kinds)} actions, and this environment's are {action}"
            f"{_unbounded_elements(action, kinds)}; {way_out}"
        )
    if mask_space(spec.observation) is not None:
        check_mask(spec.observation, action)
        if not assumptions.action_masks:
            raise InvalidInput(
                f"{subject} does not read action masks, and this environment's observations have "
                f"the entry {ACTION_MASK}; leave it out, or choose an algorithm that keeps to it, "
                "such as ppo or dqn"
            )
    states = space_beside_mask(spec.observation)
    if assumptions.discrete_observations and not isinstance(states, Discrete):
        raise InvalidInput(
            f"{name} keeps a value for each of so many states, and this "
            f"environment's observations are {spec.observation}; ppo takes every kind of them"
        )
    if assumptions.vector_observations and not is_vector(spec.observation):
        raise InvalidInput(
            f"{subject} predicts observations, as numbers of one float Box, and this environment's "
            f"are {spec.observation}; flatten them with gymnasium.wrappers.FlattenObservation if "
            "they are several such Boxes"
        )
    if assumptions.goals and (objection := _objection_to_goals(spec.observation)):
        raise InvalidInput(
            f"{subject} takes observations that are a Dict with the keys {DESIRED_GOAL} and "
            f"{ACHIEVED_GOAL}, of vectors of floats of one shape, and in this environment "
            f"{objection}; wrap it, or choose a goal environment, such as etude/PointRoom-v0"
        )
    if assumptions.distances and (
        objection := _objection_to_distances(spec.observation, assumptions.goal)
    ):
        raise InvalidInput(
            f"{subject} measures the distance to a goal, over the parts of it that are a Box, and "
            f"in this environment {objection}; wrap it, or choose a goal environment, such as "
            "etude/PointRoom-v0"
        )


def is_vector(space: Space) -> bool:
    """Whether the values of a space are arrays of floats."""
    return isinstance(space, Box) and np.issubdtype(space.dtype, np.floating)


def is_kind(space: Space, *kinds: ActionKind) -> bool:
    """Whether a space is of one of these kinds."""
    match space:
        case Discrete():
            return "Discrete" in kinds
        case Box():
            return "Box" in kinds or ("bounded Box" in kinds and bool(space.is_bounded.all()))
        case MultiDiscrete():
            return "MultiDiscrete" in kinds
        case MultiBinary():
            return "MultiBinary" in kinds
    return False


def _objection_to_goals(observation: Space) -> str:
    """Say what keeps an observation from being that of a goal environment, else ""."""
    if not isinstance(observation, Composite) or observation.names is None:
        return f"they are {observation}"
    missing = [name for name in (DESIRED_GOAL, ACHIEVED_GOAL) if name not in observation.names]
    if missing:
        return f"{' and '.join(missing)} is missing among {', '.join(observation.names)}"
    parts = dict(zip(observation.names, observation.parts, strict=True))
    goals = {name: parts[name] for name in (DESIRED_GOAL, ACHIEVED_GOAL)}
    for name, goal in goals.items():
        is_vector = isinstance(goal, Box) and len(goal.shape) == 1
        if not is_vector or not np.issubdtype(goal.dtype, np.floating):
            return f"{name} is {goal}"
    desired, achieved = (goal.shape for goal in goals.values())
    if desired != achieved:
        return f"{DESIRED_GOAL} has shape {desired} and {ACHIEVED_GOAL} {achieved}"
    return ""


def _objection_to_distances(observation: Space, names: tuple[str, ...]) -> str:
    """Say what keeps a distance between goals of an environment from being measured, else ""."""
    goal = goal_space(observation, names)
    if shows_goal(observation, names):
        entries = entries_of(observation)
        if _shapes(desired := entries[DESIRED_GOAL]) != _shapes(goal):
            return f"{DESIRED_GOAL} is {desired} and {ACHIEVED_GOAL} {goal}"
        if entries.keys() <= {DESIRED_GOAL, ACHIEVED_GOAL, ACTION_MASK}:
            return f"nothing tells the state beside {ACHIEVED_GOAL}, which its policy does not see"
    return "" if has_distance(goal) else f"goals are {goal}"


def _shapes(space: Space) -> list[tuple]:
    """The path of each leaf of a space, and the shape of a Box or the space of anything else."""
    return [
        (path, leaf.shape if isinstance(leaf, Box) else leaf)
        for path, leaf in leaves_with_path(space)
    ]


def _listed(kinds: tuple[str, ...]) -> str:
    return " or ".join(kinds) if len(kinds) < 3 else f"{', '.join(kinds[:-1])} or {kinds[-1]}"


def _unbounded_elements(action: Any, kinds: tuple[ActionKind, ...]) -> str:
    """The elements of a Box that lack a bound, where that is why it is not taken."""
    if not isinstance(action, Box) or "bounded Box" not in kinds:
        return ""
    low, high = action.bounds
    elements = ", ".join(
        f"action{index} in [{low[tuple(index)]}, {high[tuple(index)]}]"
        for index in np.argwhere(~action.is_bounded).tolist()
    )
    return f", with elements without bounds: {elements}"
