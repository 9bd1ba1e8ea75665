"""Action masks: which choices an observation allows, and values of those that it allows alone.

A mask is the entry "action_mask" of a Dict observation: zeros and ones, one for each value of a
Discrete action or of each element of a MultiDiscrete one. Networks see it as they see every other
entry; here it is read as what it says.
"""

import math
from typing import Any

import jax.numpy as jnp

from etude.errors import InvalidInput
from etude.nn.history import observed_rows
from etude.spaces import ACTION_MASK, Composite, Discrete, MultiDiscrete, Space
from etude.types import Array


def mask_space(observation_space: Space) -> Space | None:
    """The space of the mask in observations of `observation_space`; None where there is none."""
    if not isinstance(observation_space, Composite) or observation_space.names is None:
        return None
    parts = zip(observation_space.names, observation_space.parts, strict=True)
    return dict(parts).get(ACTION_MASK)


def check_mask(observation_space: Space, action_space: Space) -> None:
    """Raise InvalidInput for a mask of actions that are no choices, or of another size than they.

    It does nothing where observations have no mask.
    """
    if (mask := mask_space(observation_space)) is None:
        return
    match action_space:
        case Discrete(n=n):
            num_choices = n
        case MultiDiscrete(sizes=sizes):
            num_choices = sum(sizes)
        case _:
            raise InvalidInput(
                f"the observation has an {ACTION_MASK}, which is for Discrete and MultiDiscrete "
                f"actions, and this environment's are {action_space}; give it another name if it "
                "is no mask, or take it out of the observation"
            )
    shape = () if isinstance(mask, (Discrete, Composite)) else mask.shape
    if math.prod(shape) != num_choices:
        raise InvalidInput(
            f"the observation's {ACTION_MASK} has shape {shape}, and there are {num_choices} "
            "choices to allow or not; give one number for each"
        )


def action_mask(observation_space: Space, action_space: Space, observation: Any) -> Array | None:
    """The legal actions of an observation [...], bool [..., n] in the order of the logits.

    Of a History they are those of the rows whose features a recurrent network gives. The result is
    None for observations without a mask. Raises InvalidInput as `check_mask` does.
    """
    mask_part = mask_space(observation_space)
    if mask_part is None:
        return None
    check_mask(observation_space, action_space)
    mask = observed_rows(observation)[ACTION_MASK]
    return mask.reshape(*mask.shape[: mask.ndim - len(mask_part.shape)], -1) > 0


def legal_actions(observation_space: Space, action_space: Space, observation: Any) -> Array | None:
    """The legal actions, as `action_mask` gives them; where there are none, all.

    No play goes on from such a state, so that its value does not count; but it has to be finite,
    for zero times infinity is no number.
    """
    mask = action_mask(observation_space, action_space, observation)
    return None if mask is None else mask | ~mask.any(-1, keepdims=True)


def masked(values: Array, legal: Array | None, of_illegal: float = -math.inf) -> Array:
    """`values` [..., n], with `of_illegal` in place of those of actions that are not `legal`."""
    return values if legal is None else jnp.where(legal, values, of_illegal)


def space_beside_mask(observation_space: Space) -> Space:
    """What observations hold beside their mask, where that is one part; else all that they hold."""
    if mask_space(observation_space) is None or len(observation_space.parts) != 2:
        return observation_space
    return observation_space.parts[1 - observation_space.names.index(ACTION_MASK)]


def beside_mask(observation_space: Space, observation: Any) -> Any:
    """The value of `space_beside_mask` in an observation."""
    if space_beside_mask(observation_space) == observation_space:
        return observation
    return observation_space.split(observation)[1 - observation_space.names.index(ACTION_MASK)]
