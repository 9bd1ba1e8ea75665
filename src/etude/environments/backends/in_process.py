"""Many copies of one Gymnasium environment, stepped in a Python loop. NumPy alone: worker processes
start without JAX.

What a step tells crosses to the compiled loop as one array of bytes, a row for each copy; `Layout`
says where each part lies.
"""

import math
from collections.abc import Callable, Sequence
from typing import Any

import gymnasium
import numpy as np

from etude.environments.wrappers.action_mask import ACTION_MASK
from etude.errors import EnvironmentFault


class StepLayout:
    """A row: the observation to act on next, the true successor, reward, terminated, truncated,
    steps taken by the copy.

    Each leaf of the observation is (path into the value, dtype as JAX keeps it, shape, what its
    choices count from or None). An action is (dtype in which it crosses, shape, dtype the
    environment takes, None for a plain Python integer); of Discrete and MultiDiscrete actions
    `choices` says how many there are of each part.
    """

    def __init__(
        self,
        leaves: Sequence[tuple[tuple, str, tuple[int, ...], Any]],
        action: tuple[str, tuple[int, ...], str | None],
        choices: Sequence[int] = (),
    ):
        self.leaves = list(leaves)
        # where the mask of one part of an action ends and the next begins
        self.parts = np.cumsum(choices)[:-1]
        self.masks = [
            i for i, (path, *_) in enumerate(self.leaves) if path[-1:] == (ACTION_MASK,) and choices
        ]
        self.action_dtype, self.action_shape, self.native_dtype = action
        fields = [
            (f"{part}{i}", dtype, shape)
            for part in ("observation", "successor")
            for i, (_, dtype, shape, _) in enumerate(self.leaves)
        ]
        self.dtype = np.dtype(
            [*fields, ("reward", "f4"), ("terminated", "u1"), ("truncated", "u1"), ("steps", "i4")]
        )
        # name: (dtype, first byte)
        self.fields = {name: field[:2] for name, field in (self.dtype.fields or {}).items()}


class InProcessEnvs:
    """`count` environments of one kind; the first is number `first` in what errors say."""

    def __init__(
        self, make: Callable[[], gymnasium.Env], count: int, layout: StepLayout, first: int = 0
    ):
        self.simulators = [make() for _ in range(count)]
        self.name = getattr(
            self.simulators[0].spec, "id", type(self.simulators[0].unwrapped).__name__
        )
        self.first, self.layout = first, layout
        self.rows = np.zeros(count, layout.dtype)
        self.steps = [0] * count  # taken by each copy, for what errors say
        self.observation, self.successor = (
            [self.rows[f"{part}{i}"] for i in range(len(layout.leaves))]
            for part in ("observation", "successor")
        )
        self.real = [
            (name, self.rows[name])
            for name in layout.dtype.names
            if self.rows[name].dtype.kind == "f"
        ]

    def reset(self, seed: int) -> np.ndarray:
        """Start every copy afresh, each with a seed drawn from `seed` and its number; the rows as
        bytes [count, bytes]."""
        for i, simulator in enumerate(self.simulators):
            own = np.random.SeedSequence([seed, self.first + i]).generate_state(1)[0]
            try:
                first, _ = simulator.reset(seed=int(own))
                self._write(self.observation, i, first)
                self._write(self.successor, i, first)
            except Exception as error:
                raise self._fault(i, error) from error
        self.rows["reward"], self.rows["terminated"], self.rows["truncated"] = 0, 0, 0
        return self._finished()

    def step(self, actions: np.ndarray) -> np.ndarray:
        """Step every copy, restart those that are done; the rows as bytes [count, bytes]."""
        rows = self.rows
        native = self.layout.native_dtype
        chosen = actions.tolist() if native is None else actions.astype(native)
        for i, simulator in enumerate(self.simulators):
            self.steps[i] += 1
            try:
                successor, rows["reward"][i], terminated, truncated, _ = simulator.step(chosen[i])
                self._write(self.successor, i, successor)
                rows["terminated"][i], rows["truncated"][i] = terminated, truncated
                self._write(
                    self.observation,
                    i,
                    simulator.reset()[0] if terminated or truncated else successor,
                )
            except Exception as error:
                raise self._fault(i, error) from error
        return self._finished()

    def close(self) -> None:
        for simulator in self.simulators:
            simulator.close()

    def _write(self, fields: list[np.ndarray], i: int, value: Any) -> None:
        for field, (path, _, shape, start) in zip(fields, self.layout.leaves, strict=True):
            part = value
            for key in path:
                part = part[key]
            if np.shape(part) != shape:
                where = "".join(f"[{key!r}]" for key in path)
                raise EnvironmentFault(
                    f"its observation{where} has shape {np.shape(part)}, and its space says {shape}"
                )
            field[i] = part if start is None else part - start
        for mask in self.layout.masks if fields is self.observation else ():
            if not all(
                part.any() for part in np.split(self.observation[mask][i], self.layout.parts)
            ):
                raise EnvironmentFault(f"its {ACTION_MASK} allows nothing, and play goes on")

    def _finished(self) -> np.ndarray:
        for name, values in self.real:
            if values.size and math.isnan(values.min()):
                i = int(np.argwhere(np.isnan(values))[0][0])
                part = "reward" if name == "reward" else "observation"
                raise self._fault(i, EnvironmentFault(f"its {part} is NaN"))
        self.rows["steps"] = self.steps
        return self.rows.view(np.uint8).reshape(len(self.rows), -1).copy()

    def _fault(self, i: int, error: Exception) -> EnvironmentFault:
        what = (
            error
            if isinstance(error, EnvironmentFault)
            else f"it raised {type(error).__name__}: {error}"
        )
        when = f"at its step {self.steps[i]}" if self.steps[i] else "at its first reset"
        return EnvironmentFault(f"copy {self.first + i} of {self.name} failed {when}: {what}")
