"""Controls: the keys that are held, the mouse and the sticks of a gamepad, as the next action."""

import math
from typing import Any

import numpy as np

from etude.errors import InvalidInput
from etude.recording.bindings import ARROWS, Binding, default_keys, finite_bounds, parse_bindings
from etude.spaces import Box, Discrete, EnvironmentSpec, Space, gymnasium_dtype

DEAD_ZONE = 0.1  # of a stick, which never rests at exactly 0
PRESSED = 0.5  # how far a stick leans that stands for an arrow key
RAMP_SECONDS = 0.15  # in which a key moves an element of a Box, at normal speed


class Controls:
    """What a person does with the hands, told event by event, and asked once for each step.

    A key that was pressed and released between two steps counts for the second of them. Where no
    action is that without a key, the latest goes on, and that of the first key begins. Elements of
    a Box move to their value within `ramp_steps` steps, and back when keys are released, so that a
    key can also be touched lightly. A stick that leans takes the place of the keys of its element;
    where actions are choices, sticks stand for the arrow keys. The mouse, where it is used, says
    both elements of a Box of two by its place in the picture.
    """

    def __init__(
        self,
        space: Space,
        bindings: tuple[Binding, ...],
        *,
        ramp_steps: int = 1,
        use_mouse: bool = False,
    ):
        self.space, self.bindings, self.use_mouse = space, bindings, use_mouse
        if use_mouse and not (isinstance(space, Box) and math.prod(space.shape) == 2):
            raise InvalidInput(
                f"the mouse moves in two directions, and the action space is {space}; leave it "
                "out, or take an environment whose actions are a Box of two numbers"
            )
        self.ramp_steps = ramp_steps
        self.keys = {key for binding in bindings for key in binding.keys}
        self.held: dict[str, None] = {}  # in the order in which they were pressed
        self.tapped: dict[str, None] = {}  # since the last action
        self.sticks: dict[int, float] = {}  # by the number of the axis, in [-1, 1]
        self.leaning: set[str] = set()  # the arrow keys for which sticks stand just now
        self.mouse = np.zeros(2)  # right and up, in [-1, 1]
        resting = [binding for binding in bindings if not binding.keys]
        if isinstance(space, Discrete):
            self.first_choice = self.choice = (resting or list(bindings))[0].value
        else:
            size = math.prod(space.shape)
            low, high = finite_bounds(space) if isinstance(space, Box) else (0, 0)
            self.low, self.high = (np.broadcast_to(x, space.shape).ravel() for x in (low, high))
            self.rest = np.zeros(size).clip(self.low, self.high)
            if not isinstance(space, Box):
                self.rest = np.array(getattr(space, "starts", (0,) * size), float)
            for binding in resting:
                self.rest[binding.element] = binding.value
            self.value = self.rest.copy()

    def press(self, key: str) -> bool:
        """A key goes down; whether it means anything."""
        if key not in self.keys:
            return False
        self.held.pop(key, None)
        self.held[key] = self.tapped[key] = None
        return True

    def release(self, key: str) -> None:
        """A key goes up."""
        self.held.pop(key, None)

    def release_all(self) -> None:
        """Nothing is held any more, as where another window has the keyboard; all is at rest."""
        self.held.clear()
        self.tapped.clear()
        self.sticks.clear()
        self.leaning.clear()
        self.mouse[:] = 0
        if isinstance(self.space, Discrete):
            self.choice = self.first_choice
        else:
            self.value = self.rest.copy()

    def point(self, right: float, up: float) -> None:
        """The mouse is at a place in the picture, whose sides are at -1 and 1."""
        self.mouse = np.clip([right, up], -1, 1)

    def lean(self, axis: int, value: float) -> bool:
        """A stick leans by a value in [-1, 1], to the right and down.

        Returns whether that is like a key that goes down: it came to lean far enough just now.
        """
        if isinstance(self.space, Box):
            before, self.sticks[axis] = self.sticks.get(axis, 0.0), value
            return axis < len(self.value) and abs(value) >= PRESSED > abs(before)
        if axis > 1:
            return False
        means = False
        for key, sign in zip(ARROWS[:2] if axis == 0 else ARROWS[2:], (-1, 1), strict=True):
            if sign * value >= PRESSED and key not in self.leaning:
                self.leaning.add(key)
                means |= self.press(key)
            elif sign * value < PRESSED and key in self.leaning:
                self.leaning.remove(key)
                self.release(key)
        return means

    def action(self) -> Any:
        """The action of the next step, in the environment's own units."""
        keys = self.held | self.tapped
        self.tapped.clear()
        active = [binding for binding in self.bindings if keys.keys() >= set(binding.keys)]
        if isinstance(self.space, Discrete):
            if chosen := _choose(active, list(keys)):
                self.choice = chosen.value
            return int(self.choice)
        target = self._target(active, list(keys))
        if isinstance(self.space, Box):
            reach = np.abs(
                [self._extreme(element) - self.rest[element] for element in range(len(target))]
            )
            most = reach / self.ramp_steps
            target = self.value + np.clip(target - self.value, -most, most)
            self.value = target.copy()  # where the keys have moved it, whatever else moves
            for axis, lean in self.sticks.items():
                if abs(lean) >= DEAD_ZONE and axis < len(target):
                    target[axis] = self._between(axis, -lean if axis == 1 else lean)
            if self.use_mouse:
                target = np.array([self._between(i, lean) for i, lean in enumerate(self.mouse)])
            target = target.clip(*(bound.ravel() for bound in self.space.bounds))
        dtype = np.dtype(gymnasium_dtype(self.space))
        rounded = target if dtype.kind == "f" else target.round()
        return rounded.astype(dtype).reshape(self.space.shape)

    def _target(self, active: list[Binding], order: list[str]) -> np.ndarray:
        """The value of each element that the held keys ask for."""
        target = self.rest.copy()
        for element in range(len(target)):
            held = [x for x in active if x.element == element and x.keys]
            longest = max((len(x.keys) for x in held), default=0)
            if isinstance(self.space, Box):
                values = [x.value for x in held if len(x.keys) == longest]
                target[element] = sum(values) if values else self.rest[element]
            elif chosen := _choose(held, order):
                target[element] = chosen.value
        return target

    def _extreme(self, element: int) -> float:
        """The value of an element's keys that is farthest from rest."""
        values = [x.value for x in self.bindings if x.element == element and x.keys]
        return max(values, key=lambda x: abs(x - self.rest[element]), default=self.rest[element])

    def _between(self, element: int, lean: float) -> float:
        """The value at `lean` in [-1, 1]: the bounds at its ends, and rest in the middle."""
        rest, end = self.rest[element], (self.high if lean > 0 else self.low)[element]
        return rest + abs(lean) * (end - rest)


def make_controls(
    spec: EnvironmentSpec, keys: str | None, frames: float, mouse: bool = False, wait: bool = False
) -> Controls:
    """The controls of a person in an environment of `frames` steps a second.

    Raises InvalidInput for keys that do not fit the actions, and where there are none by default.
    """
    bindings: tuple[Binding, ...] = ()
    if not mouse:
        text = default_keys(spec.id, spec.action) if keys is None else keys
        bindings = parse_bindings(text, spec.action)
    ramp_steps = 1 if wait else max(1, round(RAMP_SECONDS * frames))
    return Controls(spec.action, bindings, ramp_steps=ramp_steps, use_mouse=mouse)


def _choose(active: list[Binding], order: list[str]) -> Binding | None:
    """Of bindings whose keys are held: that of most keys, then of the key that was pressed last."""
    latest = lambda binding: max((order.index(key) for key in binding.keys), default=-1)
    return max(active, key=lambda x: (len(x.keys), latest(x)), default=None)
