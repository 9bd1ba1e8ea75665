"""What keys mean in an action space: a plain text, such as "left=1,right=3", read and checked.

    left=1,right=3,none=0     a Discrete space: keys choose an action, `none` is that without keys
    left+up=2                 keys that are held together; of those that fit, most keys count
    left=-1@0,right=1@0       a space of arrays: keys set the element after the @

Values are in the environment's own units, and elements are numbered in row-major order. Of an
element of a Box the values of all keys that are held are added.
"""

import math
import re
import string
from typing import NamedTuple

import numpy as np

from etude.errors import InvalidInput, shown
from etude.spaces import Box, Discrete, MultiBinary, MultiDiscrete, Space, value_bounds

ARROWS = ("left", "right", "up", "down")
KEY_NAMES = (*ARROWS, *string.ascii_lowercase, *string.digits)
NO_KEY = "none"
NUMBERED = (*string.digits, *string.ascii_lowercase)  # the keys of a Discrete space without others
EXAMPLES = {
    Discrete: "left=0,right=1, with none=0 for the action without a key",
    Box: "left=-1@0,right=1@0",
    MultiDiscrete: "left=0@0,right=2@0,none=1@0",
    MultiBinary: "a=1@0,s=1@1",
}
_BINDING = re.compile(r"([a-z0-9+]+)=([-+]?(?:\d+\.?\d*|\.\d+))(?:@(\d{1,6}))?")

# By the name of an environment without its version, the keys to try, of which the first that fits
# the action space is taken.
KEYS_OF = {
    "Acrobot": ("left=0,right=2,none=1",),
    "Blackjack": ("s=0,h=1",),
    "CarRacing": ("left=-1@0,right=1@0,up=1@1,down=0.8@2", "right=1,left=2,up=3,down=4,none=0"),
    "CartPole": ("left=0,right=1",),
    "CliffWalking": ("up=0,right=1,down=2,left=3",),
    "FrozenLake": ("left=0,down=1,right=2,up=3",),
    "LunarLander": ("left=1,up=2,right=3,none=0", "up=1@0,left=-1@1,right=1@1"),
    "LunarLanderContinuous": ("up=1@0,left=-1@1,right=1@1",),
    "MountainCar": ("left=0,right=2,none=1",),
    "MountainCarContinuous": ("left=-1@0,right=1@0",),
    "Pendulum": ("left=2@0,right=-2@0",),  # counter-clockwise, clockwise
    "Taxi": ("down=0,up=1,right=2,left=3,p=4,d=5",),
    "etude/CartPoleSwingUp": ("left=-1@0,right=1@0",),
    "etude/CartPoleWithoutVelocity": ("left=0,right=1",),
    "etude/Fork": ("up=1@0,down=-1@0",),
    "etude/PendulumWithoutVelocity": ("left=2@0,right=-2@0",),
    "etude/PointRoom": ("up=0,right=1,down=2,left=3,none=4",),
    "etude/TMaze": ("left=0,up=1,right=2",),
    "etude/Tightrope": ("left=0,up=1,right=2",),
}
# environments in which nothing moves until one chooses an action
TURN_BASED = ("Blackjack", "CliffWalking", "FrozenLake", "Taxi", "etude/TMaze", "etude/Tightrope")


class Binding(NamedTuple):
    """Keys that are held together, and what they do."""

    keys: tuple[str, ...]  # () for no key at all
    value: float  # in the environment's own units
    element: int | None  # of the action, in row-major order; None for a Discrete space

    @property
    def place(self) -> tuple[frozenset[str], int | None]:
        """The keys in any order, and the element: no two bindings have the same."""
        return frozenset(self.keys), self.element

    def __str__(self) -> str:
        what = "action " if self.element is None else f"a[{self.element}] = "
        return f"{' + '.join(self.keys) or 'no key'}: {what}{self.value:g}"


def parse_bindings(text: str, space: Space) -> tuple[Binding, ...]:
    """The bindings that a text gives for an action space.

    Raises InvalidInput, naming what does not fit and an example that does.
    """
    example = EXAMPLES.get(type(space))
    if example is None:
        raise InvalidInput(f"a person cannot play with actions {space}, which are no single array")
    bindings = [_parse_binding(part.strip(), space, example) for part in text.split(",")]
    for binding in bindings:
        if [x.place for x in bindings].count(binding.place) > 1:
            raise InvalidInput(f"keys is {text!r:.80}, which says twice what {binding} does")
    if not any(binding.keys for binding in bindings):
        raise InvalidInput(f"keys is {text!r:.80}, in which no key does anything; write {example}")
    return tuple(bindings)


def default_keys(environment_id: str, space: Space) -> str:
    """The keys of an environment where a person gives none, as a text.

    Environments of Gymnasium and of etude have keys of their own. Elsewhere the actions of a
    Discrete space are those of the number keys, and of letters beyond the tenth, and the first of
    them is taken without a key; a Box has the arrow keys for its first two elements, and no others.
    Raises InvalidInput where there is no default.
    """
    for text in KEYS_OF.get(name_without_version(environment_id), ()):
        try:
            parse_bindings(text, space)
        except InvalidInput:
            continue
        return text
    match space:
        case Discrete(n=n, start=start) if n <= len(NUMBERED):
            numbered = [f"{NUMBERED[i]}={start + i}" for i in range(n)]
            return ",".join([*numbered, f"{NO_KEY}={start}"])
        case Box(shape=shape) if math.prod(shape):
            low, high = (np.ravel(bound) for bound in finite_bounds(space))
            pairs = zip((("left", "right"), ("down", "up")), low, high, strict=False)
            return ",".join(
                f"{key}={_digits(value)}@{element}"
                for element, (keys, *values) in enumerate(pairs)
                for key, value in zip(keys, values, strict=True)
            )
        case MultiBinary(shape=shape) if math.prod(shape) <= len(NUMBERED):
            return ",".join(f"{NUMBERED[i]}=1@{i}" for i in range(math.prod(shape)))
    raise InvalidInput(
        f"{environment_id or 'the environment'} has the actions {space}, for which there are no "
        f"keys by default; give them with --keys, such as {EXAMPLES.get(type(space), 'a=1@0')}"
    )


def is_turn_based(environment_id: str) -> bool:
    """Whether an environment is known to stand still until an action is chosen."""
    return name_without_version(environment_id) in TURN_BASED


def name_without_version(environment_id: str) -> str:
    """The name in a Gymnasium id: CartPole of CartPole-v1."""
    return re.sub(r"-v\d+$", "", environment_id)


def finite_bounds(space: Box) -> tuple[np.ndarray, np.ndarray]:
    """(low, high) of a Box for a person: -1 and 1 stand for bounds that are not there, or where
    these are beyond the other bound, what is 2 away from that."""
    low, high = space.bounds
    return (
        np.where(np.isfinite(low), low, np.where(high > -1, -1, high - 2)),
        np.where(np.isfinite(high), high, np.where(low < 1, 1, low + 2)),
    )


def _parse_binding(part: str, space: Space, example: str) -> Binding:
    found = _BINDING.fullmatch(part)
    if not found:
        raise InvalidInput(
            f"keys has {shown(part)}, which is not KEY=VALUE or KEY=VALUE@ELEMENT; write {example}"
        )
    words, value = found[1].split("+"), float(found[2])
    element = None if found[3] is None else int(found[3])
    keys = () if words == [NO_KEY] else tuple(words)
    for key in keys:
        if key not in KEY_NAMES or keys.count(key) > 1:
            raise InvalidInput(
                f"keys has {shown(part)}, and {shown(key)} is no key for it; there are "
                f"{', '.join(ARROWS)}, letters and digits, each once, and {NO_KEY} by itself"
            )
    if isinstance(space, Discrete) != (element is None):
        raise InvalidInput(
            f"keys has {shown(part)}, and the action space is {space}; write {example}"
        )
    size = 1 if element is None else math.prod(space.shape)
    if element is not None and element >= size:
        raise InvalidInput(
            f"keys has {shown(part)}, and an action has {size} elements, counted from 0"
        )
    low, high = (np.broadcast_to(bound, _shape(space)).ravel() for bound in value_bounds(space))
    least, most = low[element or 0], high[element or 0]
    is_whole = isinstance(space, Box) or value == int(value)
    if not (least <= value <= most and is_whole):
        raise InvalidInput(
            f"keys has {shown(part)}, and the action space is {space}; give a "
            f"{'' if isinstance(space, Box) else 'whole '}number from {least:g} to {most:g}"
        )
    return Binding(keys, value, element)


def _shape(space: Space) -> tuple[int, ...]:
    return () if isinstance(space, Discrete) else space.shape


def _digits(value: float) -> str:
    """A number within float32 that is read back without an exponent."""
    return np.format_float_positional(np.float32(value), trim="-")
