"""Spaces as Minari writes them in its metadata: JSON, in which bounds may be infinite."""

import json
import math
from typing import Any

import gymnasium
import numpy as np

from etude.errors import InvalidInput
from etude.spaces import Space, space_from_gymnasium, space_to_gymnasium
from etude.storage.files import CorruptFile

_DTYPES = (
    *("bool", "float16", "float32", "float64"),
    *(f"{sign}int{bits}" for sign in ("", "u") for bits in (8, 16, 32, 64)),
)
_DEPTH = 32  # of spaces in spaces
_ELEMENTS = 2**27  # of a Box


def encode_space(space: Space) -> str:
    """The JSON of a space; raises InvalidInput for names that an HDF5 group cannot have."""
    return json.dumps(_encode(space_to_gymnasium(space)))


def decode_space(text: Any, role: str) -> Space:
    """The space of a JSON text; its `role` is observation or action.

    Raises:
        CorruptFile: for a text that does not describe a space.
        InvalidInput: for a space that etude does not take.
    """
    if not isinstance(text, str):
        raise CorruptFile(f"its metadata have no text for the {role} space; export it again")
    try:
        space = _decode(json.loads(text, object_pairs_hook=_unique, parse_constant=_infinite), 0)
    except (
        *(KeyError, TypeError, ValueError, OverflowError),
        *(AssertionError, AttributeError, RecursionError),
    ) as error:
        raise CorruptFile(
            f"its {role} space is {text[:80]!r}, which describes none ({error}); export it again"
        ) from error
    return space_from_gymnasium(space, role)


def _encode(space):
    gym_spaces = gymnasium.spaces
    match space:
        case gym_spaces.Box():
            return {
                "type": "Box",
                "dtype": str(space.dtype),
                "shape": list(space.shape),
                "low": space.low.tolist(),
                "high": space.high.tolist(),
            }
        case gym_spaces.Discrete():
            numbers = {"start": int(space.start), "n": int(space.n)}
            return {"type": "Discrete", "dtype": "int64", **numbers}
        case gym_spaces.MultiDiscrete():
            numbers = {"nvec": space.nvec.tolist(), "start": space.start.tolist()}
            return {"type": "MultiDiscrete", "dtype": str(space.dtype), **numbers}
        case gym_spaces.MultiBinary():
            n = space.n if np.ndim(space.n) == 0 else [int(length) for length in space.n]
            return {"type": "MultiBinary", "n": n}
        case gym_spaces.Tuple():
            return {"type": "Tuple", "subspaces": [_encode(part) for part in space.spaces]}
        case gym_spaces.Dict():
            for name in space.spaces:
                if not name or "/" in name or "\0" in name or set(name) == {"."}:
                    raise InvalidInput(
                        f"the observation space has the key {name!r}, which Minari's layout cannot "
                        "hold; rename it, without a slash, or write an .npz"
                    )
            return {"type": "Dict", "subspaces": {k: _encode(v) for k, v in space.spaces.items()}}
    raise InvalidInput(f"{space} has no place in Minari's layout; write an .npz")


def _decode(data, depth):
    gym_spaces = gymnasium.spaces
    if depth > _DEPTH:
        raise ValueError(f"nested more than {_DEPTH} deep")
    match data["type"]:
        case "Box":
            shape, dtype = _shape(data["shape"]), _dtype(data["dtype"])
            low, high = (np.array(data[bound], dtype) for bound in ("low", "high"))
            if not low.shape == high.shape == shape:
                raise ValueError(f"bounds of the shapes {low.shape} and {high.shape} for {shape}")
            return gym_spaces.Box(low, high, shape, dtype)
        case "Discrete":
            return gym_spaces.Discrete(_whole(data["n"]), start=_whole(data.get("start", 0)))
        case "MultiDiscrete":
            dtype = _dtype(data.get("dtype", "int64"))
            nvec = np.array(data["nvec"], dtype)
            start = np.array(data["start"], dtype) if "start" in data else None
            return gym_spaces.MultiDiscrete(nvec, dtype, start=start)
        case "MultiBinary":
            n = data["n"]
            return gym_spaces.MultiBinary(_shape(n) if isinstance(n, list) else _shape([n])[0])
        case "Dict":
            return gym_spaces.Dict({k: _decode(v, depth + 1) for k, v in data["subspaces"].items()})
        case "Tuple":
            return gym_spaces.Tuple([_decode(part, depth + 1) for part in data["subspaces"]])
        case kind:
            raise ValueError(f"the type {kind!r:.80} is none that etude takes")


def _shape(lengths):
    shape = tuple(map(_whole, lengths))
    if any(length < 0 for length in shape) or math.prod(shape) > _ELEMENTS:
        raise ValueError(f"the shape {shape!r:.80}")
    return shape


def _dtype(name):
    if name not in _DTYPES:
        raise ValueError(f"the dtype {name!r:.80}")
    return np.dtype(name).type


def _whole(number):
    if type(number) is not int or abs(number) >= 2**63:
        raise ValueError(f"{number!r:.80} where a whole number should be")
    return number


def _unique(pairs):
    unique = dict(pairs)
    if len(unique) < len(pairs):
        raise ValueError("an object names the same key twice")
    return unique


def _infinite(text):
    if text == "NaN":
        raise ValueError("a bound that is no number")
    return float(text)
