"""What an algorithm assumes of an environment, and the refusal of one with other spaces."""

from typing import Any, Literal, NamedTuple

import numpy as np

from etude.errors import InvalidInput
from etude.spaces import Box, Discrete, EnvironmentSpec, MultiBinary, MultiDiscrete, Space

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
    episodes: bool = False  # episodes end, for it learns from whole ones
    full_observation: bool = True  # the observation determines what can happen next (Markov)
    smooth: bool = False  # dynamics and rewards have derivatives, which it follows
    because_of: str = ""  # the setting that leaves these kinds of action alone, if one does
    known_model: bool = False  # etude has the environment's dynamics, see `etude.register_model`


def check_spaces(assumptions: Assumptions, spec: EnvironmentSpec, name: str) -> None:
    """Raise InvalidInput for spaces that the algorithm called `name` does not take."""
    action, kinds = spec.action, assumptions.actions
    if not is_kind(action, *kinds):
        way_out = "ppo takes every kind of action" if is_kind(action, *EVERY_ACTION) else WRAP
        subject = name + (f" with {assumptions.because_of}" if assumptions.because_of else "")
        raise InvalidInput(
            f"{subject} takes {_listed(kinds)} actions, and this environment's are {action}"
            f"{_unbounded_elements(action, kinds)}; {way_out}"
        )
    if assumptions.discrete_observations and not isinstance(spec.observation, Discrete):
        raise InvalidInput(
            f"{name} keeps a value for each of so many states, and this "
            f"environment's observations are {spec.observation}; ppo takes every kind of them"
        )


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
