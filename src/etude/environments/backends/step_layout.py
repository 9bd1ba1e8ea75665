"""The layout of the bytes in which the steps of Python environments cross to the compiled loop.

This module needs NumPy and Gymnasium alone, so that worker processes start without JAX.
"""

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import gymnasium
import numpy as np

from etude.environments.wrappers.action_mask import ACTION_MASK

OBSERVATION, NEXT_OBSERVATION = "observation", "next_observation"


class ObservationLeaf(NamedTuple):
    """One array of an observation."""

    path: tuple[str | int, ...]  # into the value: the keys of Dict and Tuple spaces
    dtype: str  # in the bytes that the compiled loop gets
    space: gymnasium.Space  # of this array alone

    @property
    def shape(self) -> tuple[int, ...]:
        return self.space.shape or ()


class StepLayout:
    """The layout of a row of bytes, which holds the step of one environment.

    A row has the observation to act on next, the true next observation, reward, terminated,
    truncated and the number of steps taken.

    observation_space, action_space  of each environment
    leaves        of the observation, in the order of `jax.tree.leaves`
    action_dtype  in the bytes that the compiled loop gives
    native_dtype  in which an environment takes its action, None for a Python integer
    choices       the number of actions of each component of Discrete and MultiDiscrete actions
    """

    def __init__(
        self,
        observation_space: gymnasium.Space,
        action_space: gymnasium.Space,
        leaves: Sequence[ObservationLeaf],
        action_dtype: str,
        native_dtype: str | None,
        choices: Sequence[int] = (),
    ):
        self.observation_space, self.action_space = observation_space, action_space
        self.leaves = list(leaves)
        # where the mask of one component of an action ends and the next begins
        self.mask_splits = np.cumsum(choices)[:-1]
        self.mask_leaves = [
            i for i, leaf in enumerate(self.leaves) if leaf.path == (ACTION_MASK,) and choices
        ]
        self.action_dtype, self.action_shape = np.dtype(action_dtype), action_space.shape or ()
        self.native_dtype = native_dtype
        fields = [
            (f"{role}{i}", leaf.dtype, leaf.shape)
            for role in (OBSERVATION, NEXT_OBSERVATION)
            for i, leaf in enumerate(self.leaves)
        ]
        # floats first, so that one view has them all
        fields = sorted([*fields, ("reward", "f4", ())], key=lambda x: np.dtype(x[1]) != np.float32)
        self.dtype = np.dtype(
            [*fields, ("terminated", "u1"), ("truncated", "u1"), ("steps", "i4")], align=True
        )
        # name: (dtype, first byte)
        self.fields = {name: field[:2] for name, field in (self.dtype.fields or {}).items()}

    @property
    def num_floats(self) -> int:
        """The number of float32 values with which a row begins."""
        return sum(
            math.prod(dtype.shape) for dtype, _ in self.fields.values() if dtype.base == np.float32
        )

    @property
    def action_bytes(self) -> int:
        """The size of an action."""
        return self.action_dtype.itemsize * math.prod(self.action_shape)

    def native_actions(self, actions: np.ndarray) -> Any:
        """Actions [..., *action_shape] as an environment takes them: integers, or its own dtype.

        Bounds of float64 are kept to, which float32 numbers may exceed by their rounding.
        """
        if self.native_dtype is None:
            return actions.tolist()
        native = actions.astype(self.native_dtype)
        if self.native_dtype == "float64" and isinstance(self.action_space, gymnasium.spaces.Box):
            return native.clip(self.action_space.low, self.action_space.high)
        return native

    def spans(self, *prefixes: str) -> list[slice]:
        """The bytes of a row that hold the fields whose names begin with one of `prefixes`."""
        spans: list[slice] = []
        for name, (dtype, start) in sorted(self.fields.items(), key=lambda x: x[1][1]):
            if not name.startswith(prefixes):
                continue
            end = start + dtype.itemsize
            if spans and spans[-1].stop == start:
                spans[-1] = slice(spans[-1].start, end)
            else:
                spans.append(slice(start, end))
        return spans
