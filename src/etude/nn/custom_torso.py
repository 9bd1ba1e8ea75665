"""Networks of the user's own in the place of an encoder and its hidden layers.

    key, space  --TorsoMaker-->  network, observation tree [*shape] -> features [n]
    observation tree [..., *shape]  --CustomTorso-->  features [..., n]

A network is any callable pytree: an Equinox module, or, for a plain function,
`jax.tree_util.Partial(apply, params)`. Its arrays of floats are trained; all else in it is
constant. Layers that need a key or a state, such as dropout, have no place in it.
"""

import inspect
import math
from collections.abc import Callable
from typing import Any, NamedTuple, Protocol

import jax
import jax.numpy as jnp
import numpy as np

from etude.errors import InvalidInput
from etude.kinds import qualified_name
from etude.spaces import Space
from etude.struct import static, struct
from etude.types import Array

FeatureNetwork = Callable[[Any], Array]  # one observation -> features [n]


class TorsoMaker(Protocol):
    """What makes a network of the user's own: a function, or a class with these arguments."""

    def __call__(self, key: Array, space: Space, /) -> FeatureNetwork:
        """A network of one value of `space`, without leading axes, that returns features [n].

        A critic of observation and action has the space `Composite((observation, action))`, whose
        values are tuples of the two. It is called twice for each network of an algorithm, with the
        same arguments. Both calls must return the same pytree structure, so define no function
        inside it.
        """
        ...


class Trained:
    """Marks the place of a trained array among the leaves of a network."""


class Layout(NamedTuple):
    """What is fixed in a network: all but the trained arrays."""

    structure: jax.tree_util.PyTreeDef
    leaves: tuple[Any, ...]  # functions, numbers and strings; Trained for an array
    names: tuple[str, ...]  # of the trained arrays, in their order


@struct
class CustomTorso:
    """A network of the user as an encoder: observation tree [..., *shape] to features [..., n]."""

    parameters: dict[str, Array]  # the trained arrays, by their paths in the network
    layout: Layout = static()
    space: Space = static()

    @property
    def network(self) -> FeatureNetwork:
        """The user's network, with the parameters in their places."""
        arrays = (self.parameters[name] for name in self.layout.names)
        leaves = [next(arrays) if leaf is Trained else leaf for leaf in self.layout.leaves]
        return jax.tree.unflatten(self.layout.structure, leaves)

    @property
    def num_axes(self) -> int:
        """The axes of the first array of one observation."""
        return jax.tree.leaves(jax.eval_shape(self.space.zeros))[0].ndim

    def __call__(self, observation: Any) -> Array:
        first = jax.tree.leaves(observation)[0]
        leading = first.shape[: first.ndim - self.num_axes]
        rows = jax.tree.map(
            lambda x: x.reshape(math.prod(leading), *x.shape[len(leading) :]), observation
        )
        features = jax.vmap(self.network)(rows)
        return features.reshape(*leading, features.shape[-1])


def make_custom_torso(torso: TorsoMaker, key: Array, space: Space) -> CustomTorso:
    """The network that `torso` makes for observations of `space`.

    Raises InvalidInput where it makes none, where two calls differ in structure, shapes or
    constants, and where the network does not map one observation to a vector of floats.
    """
    name = qualified_name(torso)
    check_torso_maker(torso, name)
    (parameters, layout), (others, other_layout) = (
        split_network(make_network_of(torso, name, key, space), name) for _ in range(2)
    )
    try:
        is_same = layout == other_layout and _shapes(parameters) == _shapes(others)
    except ValueError as error:  # whether two arrays are equal is no single truth
        raise InvalidInput(
            f"the network of torso {name} holds an array in a static field ({_describe(error)}); "
            "keep it as a tuple, or as an array of floats that is trained"
        ) from error
    if not is_same:
        raise InvalidInput(
            f"torso {name} makes a network of another structure at each call, as one does that "
            "holds a function, or a method of an object, that is made inside the maker; define "
            "functions at the top of a module, "
            "and keep weights in a pytree: an Equinox module, or jax.tree_util.Partial(apply, "
            "params)"
        )
    made = CustomTorso(parameters, layout, space)
    check_features(made, name)
    return made


def check_torso_maker(torso: TorsoMaker, name: str) -> None:
    """Raise InvalidInput unless a callable can be called with key and space, and be hashed."""
    if any(_is_array(leaf) for leaf in jax.tree.leaves(torso)):
        raise InvalidInput(
            f"torso is {type(torso).__name__}(...), which is a network itself; give the function "
            "that makes it, torso(key, space)"
        )
    try:
        hash(torso)
    except TypeError as error:
        raise InvalidInput(
            f"torso {name} cannot be hashed ({error}), which a static argument of JAX must be; "
            "give a function, or a frozen dataclass"
        ) from error
    try:
        signature = inspect.signature(torso)
    except ValueError:  # of a function written in C
        return
    try:
        signature.bind(None, None)
    except TypeError:
        raise InvalidInput(
            f"torso {name} takes {signature}; it must take (key, space), with which it is called"
        ) from None


def make_network_of(torso: TorsoMaker, name: str, key: Array, space: Space) -> FeatureNetwork:
    """The network that `torso` makes; raises InvalidInput where it fails, or makes none."""
    try:
        network = torso(key, space)
    except Exception as error:
        raise InvalidInput(
            f"torso {name} raised {_describe(error)}; it was called with a key and the space "
            f"{space}"
        ) from error
    if not callable(network):
        raise InvalidInput(
            f"torso {name} makes {network!r:.80}, which is not callable; make a network, a "
            "callable pytree of one observation"
        )
    return network


def split_network(network: FeatureNetwork, name: str) -> tuple[dict[str, Array], Layout]:
    """The trained arrays of a network by their paths, and all else.

    Raises InvalidInput for arrays of other types than floats, and for what cannot be hashed.
    """
    pairs, structure = jax.tree_util.tree_flatten_with_path(network)
    parameters: dict[str, Array] = {}
    leaves: list[Any] = []
    for path, leaf in pairs:
        place = jax.tree_util.keystr(path)
        if not _is_array(leaf):
            leaves.append(leaf)
            continue
        if not jnp.issubdtype(leaf.dtype, jnp.floating):
            raise InvalidInput(
                f"the network of torso {name} holds an array of {leaf.dtype} at {place}, and only "
                "arrays of floats can be trained; keep it as a Python number or a tuple"
            )
        parameters[place] = jnp.asarray(leaf)
        leaves.append(Trained)
    layout = Layout(structure, tuple(leaves), tuple(parameters))
    try:
        hash(layout)
    except (TypeError, ValueError) as error:
        raise InvalidInput(
            f"the network of torso {name} holds something besides its trained arrays that cannot "
            f"be hashed ({_describe(error)}); keep it as a number, a string, a tuple or a function"
        ) from error
    return parameters, layout


def check_features(torso: CustomTorso, name: str) -> None:
    """Raise InvalidInput unless the network maps one observation to a vector of floats."""
    rows = jax.tree.map(lambda x: x[None], torso.space.zeros())
    try:
        features = jax.eval_shape(jax.vmap(torso.network), rows)
    except Exception as error:
        raise InvalidInput(
            f"the network of torso {name} raised {_describe(error)}; it was called with one value "
            f"of {torso.space}, which has no leading axes"
        ) from error
    is_array = isinstance(features, jax.ShapeDtypeStruct)
    if is_array and features.ndim == 2 and jnp.issubdtype(features.dtype, jnp.floating):
        return
    found = (
        f"an array of {features.dtype} of shape {features.shape[1:]}"
        if is_array
        else f"a {type(features).__name__}"
    )
    raise InvalidInput(
        f"the network of torso {name} returns {found} for one value of {torso.space}; it must "
        "return features, a vector of floats of shape (n,)"
    )


def _is_array(leaf: Any) -> bool:
    return isinstance(leaf, jax.Array | np.ndarray)


def _shapes(parameters: dict[str, Array]) -> dict[str, tuple[tuple[int, ...], Any]]:
    return {name: (array.shape, array.dtype) for name, array in parameters.items()}


def _describe(error: Exception) -> str:
    """The type of an error and the first line of what it says."""
    return f"{type(error).__name__}: {str(error).strip().partition(chr(10))[0]:.200}"
