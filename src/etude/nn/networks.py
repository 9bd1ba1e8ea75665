"""Networks as callable pytrees of Equinox layers: MLP, CNN, dueling, encoder and torso.

    observation tree [..., *shape]  --Encoder-->  features [..., n]  --MLP-->  [..., outputs]

A Torso is such a network without its last layer and with an optional recurrent cell; several heads
can share it. All apply over any leading axes.
"""

import math
from collections.abc import Callable, Sequence
from typing import Any, Literal, TypeVar

import equinox as eqx
import jax
import jax.numpy as jnp

from etude import spaces
from etude.nn.action_masks import legal_actions
from etude.nn.convolution import convolution
from etude.nn.custom_torso import CustomTorso, TorsoMaker, make_custom_torso
from etude.nn.history import RecurrentEncoder
from etude.nn.linear import affine
from etude.nn.recurrent import (
    GRU,
    LSTM,
    Carry,
    RecurrentCell,
    initial_carry,
    step_cell,
    unroll_cell,
)
from etude.spaces import Space
from etude.struct import static, struct
from etude.types import Array

Activation = Literal["relu", "tanh", "silu", "gelu", "elu"]
Layer = TypeVar("Layer", eqx.nn.Linear, eqx.nn.Conv2d)


@struct
class MLP:
    """Multilayer perceptron, [..., inputs] to [..., outputs]; the last layer is linear."""

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
    """Dueling head: features [..., n] to [..., action * atom], by a value and an advantage stream.

    Q(s, a) = V(s) + A(s, a) - meanₐ A(s, a)        (Wang et al., 2016, eq. 9)

    The mean is over the legal actions.
    """

    trunk: MLP | None  # the layers that both streams share; None with a single hidden layer
    value: MLP  # [..., atom]
    advantage: MLP  # [..., action * atom]
    num_atoms: int = static()

    def __call__(self, x: Array, legal: Array | None = None) -> Array:
        if self.trunk:
            x = getattr(jax.nn, self.trunk.activation)(self.trunk(x))
        advantage = self.advantage(x)
        advantage = advantage.reshape(*advantage.shape[:-1], -1, self.num_atoms)
        where = None if legal is None else legal[..., None]
        mean = advantage.mean(-2, keepdims=True, where=where)
        outputs = self.value(x)[..., None, :] + advantage - mean
        return outputs.reshape(*outputs.shape[:-2], -1)


@struct
class CNN:
    """Convolutional network: images, uint8 or real, to features [..., n].

    Images are [..., height, width, channel] or [..., channel, height, width].
    """

    layers: tuple[eqx.nn.Conv2d, ...]
    shape: tuple[int, ...] = static()
    padding: Literal["VALID", "SAME"] = static()
    # whether features have a mean square of 1, whatever the unit of the pixels
    normalize: bool = static(False)

    def __call__(self, image: Array) -> Array:
        leading = image.shape[: image.ndim - len(self.shape)]
        x = channels_last(image.reshape(-1, *self.shape), self.shape)
        x = x.astype(jnp.float32) / (255 if image.dtype == jnp.uint8 else 1)
        for layer in self.layers:
            x = jax.nn.relu(
                convolution(x, layer.weight, layer.stride[0], self.padding) + layer.bias.ravel()
            )
        x = x.reshape(*leading, -1)
        return x * jax.lax.rsqrt((x**2).mean(-1, keepdims=True) + 1e-8) if self.normalize else x


@struct
class Encoder:
    """An observation tree to features [..., n].

    Images pass a CNN, discrete values become one-hot vectors, all else is flattened.
    """

    cnns: tuple[CNN | None, ...]  # for each leaf of the space; None where it is no image
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
class EntriesEncoder:
    """Some entries of an observation, a Dict, to features [..., n]."""

    encoder: Callable[[Any], Array]  # an Encoder, or what takes its place, of these entries
    names: tuple[str, ...] = static()

    def __call__(self, observation: Any) -> Array:
        return self.encoder({name: observation[name] for name in self.names})


@struct
class Network:
    """Network of an encoder and a head: observation tree to [..., outputs].

    With a recurrent encoder it reads a History in place of an observation.
    """

    encoder: Callable[[Any], Array]  # an Encoder, or what takes its place
    head: MLP

    def __call__(self, observation: Any) -> Array:
        return self.head(self.encoder(observation))


@struct
class DuelingNetwork:
    """Network of an encoder and a dueling head: observation tree to [..., action * atom]."""

    encoder: Callable[[Any], Array]  # an Encoder, or what takes its place
    head: Dueling
    observation_space: Space = static()
    action_space: Space = static()

    def __call__(self, observation: Any) -> Array:
        legal = legal_actions(self.observation_space, self.action_space, observation)
        return self.head(self.encoder(observation), legal)


@struct
class Torso:
    """Observation tree to features [..., n]: encoder, optional recurrent cell, hidden layers."""

    encoder: Encoder | CustomTorso | EntriesEncoder
    cell: RecurrentCell | None
    layers: tuple[eqx.nn.Linear, ...]
    activation: Activation = static("tanh")
    # what the hidden layers read beside the output of the cell, which never sees it
    after_cell: EntriesEncoder | None = None

    def __call__(
        self, observation: Any, carry: Carry = (), is_first: Array | None = None
    ) -> tuple[Array, Carry]:
        """(features, next carry).

        Without `is_first` this is one step, over any leading axes. With `is_first` [time, n],
        observations are sequences, `carry` [n, size] precedes the first step and is reset to zero
        where `is_first` is true, and the carries of all steps are returned.
        """
        x = self.encoder(observation)
        if self.cell:
            carry = carry or initial_carry(
                self.cell, x.shape[:-1] if is_first is None else x.shape[1:-1]
            )
            carry = (
                step_cell(self.cell, x, carry)
                if is_first is None
                else unroll_cell(self.cell, x, carry, is_first)
            )
            x = carry[0]
        if self.after_cell:
            x = jnp.concatenate([x, self.after_cell(observation)], -1)
        for layer in self.layers:
            x = getattr(jax.nn, self.activation)(affine(layer, x))
        return x, carry


def make_torso(
    key: Array,
    space: Space,
    hidden: Sequence[int],
    outputs: int,
    activation: Activation = "tanh",
    final_scale: float = 1.0,
    recurrent: GRU | LSTM | None = None,
    torso: TorsoMaker | None = None,
) -> tuple[Torso, eqx.nn.Linear]:
    """(torso, head): a torso for observations of `space`, and a linear layer to `outputs` numbers.

    Weights are initialized as in `make_network` with `final_scale`. The recurrent cell
    precedes the hidden layers and keeps Equinox's initial weights. With `torso`, the network that
    it makes precedes the cell, and there are no hidden layers.
    """
    made, num_features, key_head = make_headless_torso(
        key, space, hidden, activation, recurrent, torso
    )
    return made, make_orthogonal_layer(key_head, num_features, outputs, final_scale)


def make_headless_torso(
    key: Array,
    space: Space,
    hidden: Sequence[int],
    activation: Activation = "tanh",
    recurrent: GRU | LSTM | None = None,
    torso: TorsoMaker | None = None,
) -> tuple[Torso, int, Array]:
    """(the torso of `make_torso`, the number of its features, the key of what reads them)."""
    hidden = () if torso else hidden
    key_network, key_cell = jax.random.split(key) if recurrent else (key, key)
    key_encoder, key_layers = jax.random.split(key_network)
    encoder, num_features = make_observation_encoder(key_encoder, space, torso, orthogonal=True)
    cell = recurrent.make(key_cell, num_features) if recurrent else None
    sizes = (recurrent.units if recurrent else num_features, *hidden)
    *keys, key_head = jax.random.split(key_layers, len(sizes))
    layers = tuple(
        make_orthogonal_layer(key, n, m, math.sqrt(2))
        for n, m, key in zip(sizes[:-1], sizes[1:], keys, strict=True)
    )
    return Torso(encoder, cell, layers, activation), sizes[-1], key_head


def make_orthogonal_layer(key: Array, inputs: int, outputs: int, scale: float) -> eqx.nn.Linear:
    """A linear layer with an orthogonal weight of gain `scale`, and a bias of zero."""
    return orthogonal_init(eqx.nn.Linear(inputs, outputs, key=key), scale, key)


def make_network(
    key: Array,
    space: Space,
    hidden: Sequence[int],
    outputs: int,
    activation: Activation = "relu",
    final_scale: float | None = None,
    layer_norm: bool = False,
    torso: TorsoMaker | None = None,
    recurrent: GRU | LSTM | None = None,
    carry_index: int = 0,
) -> Network:
    """A network from observations of `space` to `outputs` numbers, with `hidden` units per layer.

    With `final_scale`, weights, those of convolutions too, are orthogonal with gain √2, in the last
    layer with gain `final_scale`, and biases are zero (Saxe et al., 2014; usual for policy
    gradients). Without it, weights and biases are uniform in ±1/√inputs, as in Equinox. With
    `layer_norm`, the input of each activation is normalized over the layer's units (Ba et al.,
    2016). With `torso`, the network that it makes stands in for encoder and hidden layers. With
    `recurrent`, a recurrent cell follows the encoder, and the network reads a History, where the
    cell's carry is at the index `carry_index`.
    """
    hidden = () if torso else hidden
    key_encoder, key_head = jax.random.split(key)
    encoder, num_features = make_network_encoder(
        key_encoder, space, torso, recurrent, carry_index, orthogonal=final_scale is not None
    )
    return Network(
        encoder,
        make_mlp(key_head, (num_features, *hidden, outputs), activation, final_scale, layer_norm),
    )


def make_dueling_network(
    key: Array,
    space: Space,
    hidden: Sequence[int],
    num_actions: int,
    num_atoms: int = 1,
    activation: Activation = "relu",
    torso: TorsoMaker | None = None,
    recurrent: GRU | LSTM | None = None,
) -> DuelingNetwork:
    """A dueling network from observations of `space` to `num_actions` × `num_atoms` numbers.

    Each stream has the last hidden layer for itself; both share the others. With `torso`, each is
    one linear layer on the features of the network that it makes.
    """
    hidden = () if torso else hidden
    key_encoder, key_trunk, key_value, key_advantage = jax.random.split(key, 4)
    encoder, num_features = make_network_encoder(key_encoder, space, torso, recurrent)
    shared = (num_features, *hidden[:-1])
    trunk = make_mlp(key_trunk, shared, activation) if len(shared) > 1 else None
    value = make_mlp(key_value, (shared[-1], *hidden[-1:], num_atoms), activation)
    advantage = make_mlp(
        key_advantage, (shared[-1], *hidden[-1:], num_actions * num_atoms), activation
    )
    head = Dueling(trunk, value, advantage, num_atoms)
    return DuelingNetwork(encoder, head, space, spaces.Discrete(num_actions))


def make_mlp(
    key: Array,
    sizes: Sequence[int],
    activation: Activation = "relu",
    final_scale: float | None = None,
    layer_norm: bool = False,
) -> MLP:
    """An MLP with layers of these sizes, inputs first, initialized as in `make_network`."""
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


def make_network_encoder(
    key: Array,
    space: Space,
    torso: TorsoMaker | None = None,
    recurrent: GRU | LSTM | None = None,
    carry_index: int = 0,
    orthogonal: bool = False,
) -> tuple[Encoder | CustomTorso | RecurrentEncoder, int]:
    """(the encoder for observations of `space`, the number of its features).

    With `torso` it is the network that this makes. With `recurrent` it is one of Histories, whose
    carry is at the index `carry_index`. For `orthogonal` see `make_cnn`.
    """
    if not recurrent:
        return make_observation_encoder(key, space, torso, orthogonal)
    key_encoder, key_cell = jax.random.split(key)
    encoder, num_features = make_observation_encoder(key_encoder, space, torso, orthogonal)
    cell = recurrent.make(key_cell, num_features)
    return RecurrentEncoder(encoder, cell, carry_index), recurrent.units


def make_observation_encoder(
    key: Array, space: Space, torso: TorsoMaker | None = None, orthogonal: bool = False
) -> tuple[Encoder | CustomTorso, int]:
    """(the encoder for observations of `space`, the number of its features)."""
    encoder = (
        make_custom_torso(torso, key, space) if torso else make_encoder(key, space, orthogonal)
    )
    return encoder, jax.eval_shape(encoder, space.zeros()).shape[-1]


def make_encoder(key: Array, space: Space, orthogonal: bool = False) -> Encoder:
    """The encoder for observations of `space`, with a CNN for each image among them.

    For `orthogonal` see `make_cnn`.
    """
    leaves = [leaf for _, leaf in spaces.leaves_with_path(space)]
    keys = jax.random.split(key, len(leaves))
    cnns = tuple(
        make_cnn(key, leaf.shape, orthogonal) if is_image(leaf) else None
        for key, leaf in zip(keys, leaves, strict=True)
    )
    return Encoder(cnns, space)


def make_cnn(key: Array, shape: tuple[int, ...], orthogonal: bool = False) -> CNN:
    """A CNN for images of `shape`.

    It is that of Mnih et al. (2015) for images from 36 pixels, and two 3×3 layers for smaller ones.
    With `orthogonal`, kernels are orthogonal with gain √2 and biases are zero, as PPO and A2C are
    published, and features are normalized, so that pictures that use a part of their range teach as
    fast as others; else kernels and biases are uniform in ±1/√inputs, as in Equinox.
    """
    *image_size, channels = jax.eval_shape(
        lambda x: channels_last(x, shape), jnp.zeros((1, *shape))
    ).shape[1:]
    layer_specs = (
        [(32, 8, 4), (64, 4, 2), (64, 3, 1)] if min(image_size) >= 36 else [(16, 3, 1), (32, 3, 1)]
    )
    channel_sizes = (channels, *(filters for filters, _, _ in layer_specs))
    keys = jax.random.split(key, len(layer_specs))
    layers = tuple(
        eqx.nn.Conv2d(n, filters, min(kernel, *image_size), stride, key=key)
        for n, (filters, kernel, stride), key in zip(channel_sizes, layer_specs, keys, strict=False)
    )
    if orthogonal:
        layers = tuple(
            orthogonal_init(layer, math.sqrt(2), key)
            for layer, key in zip(layers, keys, strict=True)
        )
    return CNN(layers, shape, "VALID" if min(image_size) >= 36 else "SAME", orthogonal)


def apply_layer_norm(norm: eqx.nn.LayerNorm, x: Array) -> Array:
    """The layer norm of x [..., units] over its last axis."""
    return jax.vmap(norm)(x.reshape(-1, x.shape[-1])).reshape(x.shape)


def orthogonal_init(layer: Layer, scale: float, key: Array) -> Layer:
    """The layer with an orthogonal weight [output, inputs] of gain `scale`, and a bias of zero."""
    shape = layer.weight.shape
    matrix = jax.nn.initializers.orthogonal(scale)(key, (shape[0], math.prod(shape[1:])))
    return eqx.tree_at(
        lambda layer: (layer.weight, layer.bias),
        layer,
        (matrix.reshape(shape), jnp.zeros(layer.bias.shape)),
    )


def encode_leaf(space: Space, x: Array) -> Array:
    """A leaf of an observation that is no image, [..., *shape], as features [..., n]."""
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
    """True for a uint8 Box of two axes (gray), three (with channels) or four (a stack of those)."""
    return (
        isinstance(space, spaces.Box) and space.dtype == "uint8" and len(space.shape) in (2, 3, 4)
    )


def channels_last(x: Array, shape: tuple[int, ...]) -> Array:
    """Images [n, *shape] as [n, height, width, channel].

    The shorter of the first and last axes is taken for the channels.
    """
    match len(shape):
        case 2:
            return x[..., None]
        case 3:
            return x.transpose(0, 2, 3, 1) if shape[0] <= shape[2] else x
    # [n, h, w, stack, channel]
    stacked = x.transpose(0, 3, 4, 1, 2) if shape[1] <= shape[3] else x.transpose(0, 2, 3, 1, 4)
    return stacked.reshape(*stacked.shape[:3], -1)
