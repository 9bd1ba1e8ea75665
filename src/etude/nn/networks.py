"""Networks as callable pytrees: Equinox layers, applied over any leading axes.

    observation tree [..., *shape]  --Encoder-->  features [..., n]  --MLP-->  [..., outputs]

A Body is the same without its last layer, for what looks at the features in more than one way or
needs a memory.
"""

import math
from collections.abc import Sequence
from typing import Any, Literal

import equinox as eqx
import jax
import jax.numpy as jnp

from etude import spaces
from etude.nn.convolution import convolution
from etude.nn.linear import affine
from etude.nn.recurrent import (
    Carry,
    CellType,
    RecurrentCell,
    initial_carry,
    make_cell,
    step_cell,
    unroll_cell,
)
from etude.spaces import Space
from etude.struct import static, struct
from etude.types import Array

Activation = Literal["relu", "tanh", "silu", "gelu", "elu"]


@struct
class MLP:
    """[..., inputs] to [..., outputs]; the activation stands between layers, not after the last."""

    layers: tuple[eqx.nn.Linear, ...]
    norms: tuple[eqx.nn.LayerNorm | None, ...]  # before each activation
    activation: Activation = static("relu")

    def __call__(self, x: Array) -> Array:
        for layer, norm in zip(self.layers[:-1], self.norms, strict=True):
            x = affine(layer, x)
            x = getattr(jax.nn, self.activation)(apply_layer_norm(norm, x) if norm else x)
        return affine(self.layers[-1], x)


@struct
class Dueling:
    """Features [..., n] to [..., action * atom]: the state's value and each action's advantage in
    streams of their own.

        Q(s, a) = V(s) + A(s, a) - meanₐ A(s, a)        (Wang et al., 2016, eq. 9)
    """

    trunk: MLP | None  # the layers that both share, none when there is one layer only
    value: MLP  # [..., atom]
    advantage: MLP  # [..., action * atom]
    num_atoms: int = static()

    def __call__(self, x: Array) -> Array:
        if self.trunk:
            x = getattr(jax.nn, self.trunk.activation)(self.trunk(x))
        advantage = self.advantage(x)
        advantage = advantage.reshape(*advantage.shape[:-1], -1, self.num_atoms)
        outputs = self.value(x)[..., None, :] + advantage - advantage.mean(-2, keepdims=True)
        return outputs.reshape(*outputs.shape[:-2], -1)


@struct
class CNN:
    """Images [..., height, width, channel] or [..., channel, height, width], uint8 or real, to
    features [..., n]."""

    layers: tuple[eqx.nn.Conv2d, ...]
    shape: tuple[int, ...] = static()
    padding: Literal["VALID", "SAME"] = static()

    def __call__(self, image: Array) -> Array:
        leading = image.shape[: image.ndim - len(self.shape)]
        x = channels_last(image.reshape(-1, *self.shape), self.shape)
        x = x.astype(jnp.float32) / (255 if image.dtype == jnp.uint8 else 1)
        for layer in self.layers:
            x = jax.nn.relu(
                convolution(x, layer.weight, layer.stride[0], self.padding) + layer.bias.ravel()
            )
        return x.reshape(*leading, -1)


@struct
class Encoder:
    """An observation tree to one vector of features, [..., n]: images by a CNN, choices one-hot,
    the rest flattened."""

    cnns: tuple[CNN | None, ...]  # one for each leaf of the space
    space: Space = static()

    def __call__(self, observation: Any) -> Array:
        parts = zip(
            spaces.leaves_with_path(self.space),
            jax.tree.leaves(observation),
            self.cnns,
            strict=True,
        )
        features = [cnn(x) if cnn else encode_leaf(leaf, x) for (_, leaf), x, cnn in parts]
        return features[0] if len(features) == 1 else jnp.concatenate(features, -1)


@struct
class Network:
    """observation tree [..., *shape] to [..., outputs]."""

    encoder: Encoder
    head: MLP | Dueling

    def __call__(self, observation: Any) -> Array:
        return self.head(self.encoder(observation))


@struct
class Torso:
    """observation tree [..., *shape] to features [..., n]: an encoder, a memory where there is one,
    hidden layers."""

    encoder: Encoder
    cell: RecurrentCell | None
    layers: tuple[eqx.nn.Linear, ...]
    activation: Activation = static("tanh")

    def __call__(
        self, observation: Any, memory: Carry = (), fresh: Array | None = None
    ) -> tuple[Array, Carry]:
        """The features, and the memory to go on with.

        Without `fresh` this is one step, over any leading axes. With it, [time, n], the
        observations are stretches of time, and so are the memories returned; `memory` [n, size] is
        that before the first, and forgotten where `fresh`.
        """
        x = self.encoder(observation)
        if self.cell:
            memory = memory or initial_carry(
                self.cell, x.shape[:-1] if fresh is None else x.shape[1:-1]
            )
            memory = (
                step_cell(self.cell, x, memory)
                if fresh is None
                else unroll_cell(self.cell, x, memory, fresh)
            )
            x = memory[0]
        for layer in self.layers:
            x = getattr(jax.nn, self.activation)(affine(layer, x))
        return x, memory


def make_torso(
    key: Array,
    space: Space,
    hidden: Sequence[int],
    outputs: int,
    activation: Activation = "tanh",
    final_scale: float = 1.0,
    recurrent: CellType = "none",
    memory_size: int = 64,
) -> tuple[Torso, eqx.nn.Linear]:
    """A body for observations of `space`, and the layer that makes `outputs` numbers of its
    features.

    Weights are as `network` has them with `final_scale`; those of a recurrent layer, which has
    `memory_size` units and stands before the hidden ones, are Equinox's.
    """
    key_network, key_core = jax.random.split(key) if recurrent != "none" else (key, key)
    key_encoder, key_head = jax.random.split(key_network)
    see = make_encoder(key_encoder, space)
    features = jax.eval_shape(see, space.zeros()).shape[-1]
    memory = make_cell(key_core, recurrent, features, memory_size)
    *layers, last = make_mlp(
        key_head, (memory_size if memory else features, *hidden, outputs), activation, final_scale
    ).layers
    return Torso(see, memory, tuple(layers), activation), last


def make_network(
    key: Array,
    space: Space,
    hidden: Sequence[int],
    outputs: int,
    activation: Activation = "relu",
    final_scale: float | None = None,
    layer_norm: bool = False,
) -> Network:
    """A network from observations of `space` to `outputs` numbers, with `hidden` units a layer.

    With `final_scale`, weights are orthogonal with gain √2, and `final_scale` in the last layer,
    biases zero (Saxe et al., 2014; the custom of policy gradients); without, Equinox's uniform
    ±1/√inputs. With `layer_norm`, what enters an activation has mean 0 and variance 1 over the
    layer's units (Ba et al., 2016).
    """
    key_encoder, key_head = jax.random.split(key)
    built = make_encoder(key_encoder, space)
    features = jax.eval_shape(built, space.zeros()).shape[-1]
    return Network(
        built, make_mlp(key_head, (features, *hidden, outputs), activation, final_scale, layer_norm)
    )


def make_dueling_network(
    key: Array,
    space: Space,
    hidden: Sequence[int],
    actions: int,
    atoms: int = 1,
    activation: Activation = "relu",
) -> Network:
    """A network from observations of `space` to `actions` × `atoms` numbers, whose last hidden
    layer is one for each stream."""
    key_encoder, key_trunk, key_value, key_advantage = jax.random.split(key, 4)
    built = make_encoder(key_encoder, space)
    features = jax.eval_shape(built, space.zeros()).shape[-1]
    shared = (features, *hidden[:-1])
    trunk = make_mlp(key_trunk, shared, activation) if len(shared) > 1 else None
    value = make_mlp(key_value, (shared[-1], hidden[-1], atoms), activation)
    advantage = make_mlp(key_advantage, (shared[-1], hidden[-1], actions * atoms), activation)
    return Network(built, Dueling(trunk, value, advantage, atoms))


def make_mlp(
    key: Array,
    sizes: Sequence[int],
    activation: Activation = "relu",
    final_scale: float | None = None,
    layer_norm: bool = False,
) -> MLP:
    """Fully connected layers of these sizes, inputs first; initialized as `network` says."""
    keys = jax.random.split(key, len(sizes) - 1)
    layers = tuple(
        eqx.nn.Linear(n, m, key=key) for n, m, key in zip(sizes[:-1], sizes[1:], keys, strict=True)
    )
    if final_scale is not None:
        scales = [math.sqrt(2)] * (len(layers) - 1) + [final_scale]
        layers = tuple(
            orthogonal_init(layer, scale, key)
            for layer, scale, key in zip(layers, scales, keys, strict=True)
        )
    return MLP(
        layers, tuple(eqx.nn.LayerNorm(n) if layer_norm else None for n in sizes[1:-1]), activation
    )


def make_encoder(key: Array, space: Space) -> Encoder:
    """The encoder for observations of `space`."""
    leaves = [leaf for _, leaf in spaces.leaves_with_path(space)]
    keys = jax.random.split(key, len(leaves))
    return Encoder(
        tuple(
            make_cnn(key, leaf.shape) if is_image(leaf) else None
            for key, leaf in zip(keys, leaves, strict=True)
        ),
        space,
    )


def make_cnn(key: Array, shape: tuple[int, ...]) -> CNN:
    """Convolutions for images of `shape`: those of Mnih et al. (2015) from 36 pixels up, two of 3×3
    below."""
    *size, channels = jax.eval_shape(
        lambda x: channels_last(x, shape), jnp.zeros((1, *shape))
    ).shape[1:]
    plan = [(32, 8, 4), (64, 4, 2), (64, 3, 1)] if min(size) >= 36 else [(16, 3, 1), (32, 3, 1)]
    inputs = (channels, *(filters for filters, _, _ in plan))
    keys = jax.random.split(key, len(plan))
    layers = (
        eqx.nn.Conv2d(n, filters, min(kernel, *size), stride, key=key)
        for n, (filters, kernel, stride), key in zip(inputs, plan, keys, strict=False)
    )
    return CNN(tuple(layers), shape, "VALID" if min(size) >= 36 else "SAME")


def apply_layer_norm(norm: eqx.nn.LayerNorm, x: Array) -> Array:
    """The layer norm over any leading axes: [..., units], each to mean 0 and variance 1 over its
    units."""
    return jax.vmap(norm)(x.reshape(-1, x.shape[-1])).reshape(x.shape)


def orthogonal_init(layer: eqx.nn.Linear, scale: float, key: Array) -> eqx.nn.Linear:
    weight = jax.nn.initializers.orthogonal(scale)(key, layer.weight.shape)
    return eqx.tree_at(
        lambda layer: (layer.weight, layer.bias), layer, (weight, jnp.zeros(weight.shape[0]))
    )


def encode_leaf(space: Space, x: Array) -> Array:
    """A leaf without picture, [..., *shape], as features [..., n]."""
    match space:
        case spaces.Discrete(n=n):
            return jax.nn.one_hot(x, n)
        case spaces.MultiDiscrete(sizes=sizes, shape=shape):
            choices = x.reshape(*x.shape[: x.ndim - len(shape)], len(sizes))
            return jnp.concatenate(
                [jax.nn.one_hot(choices[..., i], n) for i, n in enumerate(sizes)], -1
            )
    features = x.reshape(*x.shape[: x.ndim - len(space.shape)], -1)
    return features.astype(jnp.float32) / (255 if x.dtype == jnp.uint8 else 1)


def is_image(space: Space) -> bool:
    """A uint8 Box of two axes (gray), three (channels first or last) or four (a stack of those)."""
    return (
        isinstance(space, spaces.Box) and space.dtype == "uint8" and len(space.shape) in (2, 3, 4)
    )


def channels_last(x: Array, shape: tuple[int, ...]) -> Array:
    """Images [n, *shape] as [n, height, width, channel]; the shortest outer axis is taken for the
    channels."""
    match len(shape):
        case 2:
            return x[..., None]
        case 3:
            return x.transpose(0, 2, 3, 1) if shape[0] <= shape[2] else x
    # [n, h, w, stack, channel]
    stacked = x.transpose(0, 3, 4, 1, 2) if shape[1] <= shape[3] else x.transpose(0, 2, 3, 1, 4)
    return stacked.reshape(*stacked.shape[:3], -1)
