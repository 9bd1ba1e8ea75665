"""Networks take every observation, on any leading axes, and say what their layers compute."""

import math

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from filling import call, filled

from etude.nn import networks
from etude.nn.networks import make_mlp, make_network, make_torso
from etude.spaces import Box, Composite, Discrete, MultiBinary, MultiDiscrete, space_to_gymnasium

KEY = jax.random.key(0)
GREY = Box((8, 9), "uint8", 0.0, 255.0)
COLOR = Box((8, 9, 3), "uint8", 0.0, 255.0)
NESTED = Composite(
    (
        Box((2,)),
        Composite((Discrete(3), Composite((MultiBinary((2,)), COLOR), ("flags", "view")))),
        GREY,
    ),
    ("arm", "inner", "map"),
)
SPACES = {
    "box": Box((3,)),
    "scalar": Box(()),
    "matrix": Box((2, 3)),
    "half-bounded": Box((2,), low=0.0),
    "integers": Box((3,), "int32", -5.0, 5.0),
    "bytes": Box((3,), "uint8", 0.0, 255.0),
    "real picture": Box((8, 9, 3)),
    "discrete": Discrete(4, start=-1),
    "multidiscrete": MultiDiscrete((2, 3), (0, 4), (2,)),
    "multidiscrete matrix": MultiDiscrete((2, 3, 2, 4), (0, 0, 0, 0), (2, 2)),
    "multibinary": MultiBinary((3,)),
    "multibinary matrix": MultiBinary((2, 2)),
    "gray": GREY,
    "color last": COLOR,
    "color first": Box((3, 8, 9), "uint8", 0.0, 255.0),
    "stack of color last": Box((4, 8, 9, 3), "uint8", 0.0, 255.0),
    "stack of color first": Box((4, 3, 8, 9), "uint8", 0.0, 255.0),
    "atari": Box((4, 84, 84), "uint8", 0.0, 255.0),
    "small picture": Box((2, 5), "uint8", 0.0, 255.0),
    "tuple": Composite((Discrete(2), Box((2,)))),
    "nested": NESTED,
}


def sample(space, seed, *leading):
    """Observations [*leading, *shape] as the environments give them: choices from 0, in the dtypes
    that JAX keeps."""
    rng = np.random.default_rng(seed)

    def one(part):
        shape = (*leading, *getattr(part, "shape", ()))
        match part:
            case Box(dtype="uint8"):
                return rng.integers(256, size=shape, dtype=np.uint8)
            case Box(dtype="int32"):
                return rng.integers(-5, 6, size=shape, dtype=np.int32)
            case Box():
                return rng.normal(size=shape).astype(np.float32)
            case Discrete(n=n):
                return rng.integers(n, size=shape, dtype=np.int32)
            case MultiDiscrete(sizes=sizes, shape=own):
                return rng.integers(np.reshape(sizes, own), size=shape, dtype=np.int32)
            case MultiBinary():
                return rng.integers(2, size=shape, dtype=np.int8)
            case Composite():
                return part.assemble([one(inner) for inner in part.parts])

    return one(space)


@pytest.mark.parametrize(
    "name",
    [
        name
        if name in ("nested", "multidiscrete", "color first")
        else pytest.param(name, marks=pytest.mark.slow)
        for name in SPACES
    ],
)
def test_every_observation_on_any_leading_axes(name):
    space = SPACES[name]

    @jax.jit
    def out(net, batch, other):
        return net(batch), jax.vmap(jax.vmap(net))(batch), net(other)

    leading = (1, 1) if 84 in getattr(space, "shape", ()) else (2, 3)
    net = filled(lambda: make_network(KEY, space, (5,), 4))
    together, alone, other = out(net, sample(space, 0, *leading), sample(space, 1, *leading))
    assert (
        together.shape == (*leading, 4)
        and together.dtype == jnp.float32
        and jnp.isfinite(together).all()
    )
    np.testing.assert_allclose(alone, together, rtol=1e-4, atol=1e-5)
    assert not np.allclose(together, other)  # it sees what it is shown


def features_of(space, observation):
    return np.asarray(
        call(
            filled(lambda: networks.make_encoder(KEY, space)),
            jax.tree.map(jnp.asarray, observation),
        )
    )


def test_choices_are_one_hot_and_numbers_flat():
    np.testing.assert_array_equal(
        features_of(Discrete(3, start=5), np.int32([0, 2])), [[1, 0, 0], [0, 0, 1]]
    )
    np.testing.assert_array_equal(
        features_of(MultiDiscrete((2, 3), (7, 7), (2,)), np.int32([[1, 0], [0, 2]])),
        [[0, 1, 1, 0, 0], [1, 0, 0, 0, 1]],
    )
    np.testing.assert_array_equal(  # row-major
        features_of(MultiDiscrete((2, 3, 2, 1), (0,) * 4, (2, 2)), np.int32([[1, 2], [0, 0]])),
        [0, 1, 0, 0, 1, 1, 0, 1],
    )
    np.testing.assert_array_equal(
        features_of(MultiBinary((2, 2)), np.int8([[0, 1], [1, 1]])), [0, 1, 1, 1]
    )
    np.testing.assert_array_equal(
        features_of(Box((2, 2)), np.float32([[1, 2], [3, 4]])), [1, 2, 3, 4]
    )
    np.testing.assert_array_equal(features_of(Box((2,), "int32"), np.int32([-3, 4])), [-3, 4])
    np.testing.assert_allclose(
        features_of(Box((2,), "uint8", 0.0, 255.0), np.uint8([51, 255])), [0.2, 1]
    )
    assert features_of(MultiBinary((2,)), np.int8([0, 1])).dtype == jnp.float32


def test_the_parts_of_a_tree_stand_one_after_another():
    space = Composite((Box((2,)), Composite((Discrete(2), MultiBinary((1,))))), ("a", "b"))
    told = features_of(space, {"b": (np.int32([1]), np.int8([[1]])), "a": np.float32([[5, 6]])})
    np.testing.assert_array_equal(told, [[5, 6, 0, 1, 1]])


@pytest.mark.slow
def test_samples_of_gymnasium_fit():
    """What a simulator's space samples has the shapes that the network of its spec takes."""
    for space in SPACES.values():
        value = space_to_gymnasium(space).sample()
        net = jax.eval_shape(lambda space=space: make_network(KEY, space, (3,), 2))
        assert jax.eval_shape(lambda net, x: net(x), net, value).shape == (2,)


@pytest.mark.parametrize(
    "first, last, axes",
    [
        (Box((3, 8, 9), "uint8", 0.0, 255.0), COLOR, (1, 2, 0)),
        (
            Box((4, 3, 8, 9), "uint8", 0.0, 255.0),
            Box((4, 8, 9, 3), "uint8", 0.0, 255.0),
            (0, 2, 3, 1),
        ),
    ],
    ids=["picture", "stack"],
)
def test_channels_first_and_last_are_the_same_picture(first, last, axes):
    one, other = (
        filled(lambda box=box: networks.make_cnn(KEY, box.shape)) for box in (first, last)
    )
    picture = sample(first, 0)
    picture = np.asarray(picture)
    np.testing.assert_array_equal(call(one, picture), call(other, picture.transpose(axes)))


def test_a_gray_picture_has_one_channel_and_a_stack_one_for_each():
    gray, one, color, stack = (
        filled(lambda shape=shape: networks.make_cnn(KEY, shape))
        for shape in ((8, 9), (8, 9, 1), (8, 9, 3), (4, 8, 9, 3))
    )
    assert [cnn.layers[0].in_channels for cnn in (gray, one, color, stack)] == [1, 1, 3, 12]
    picture = sample(GREY, 0)
    np.testing.assert_array_equal(call(gray, picture), call(one, np.asarray(picture)[..., None]))


def test_large_pictures_get_the_convolutions_of_the_nature_paper():
    cnn = filled(lambda: networks.make_cnn(KEY, (4, 84, 84)))
    plan = [
        (layer.in_channels, layer.out_channels, layer.kernel_size, layer.stride)
        for layer in cnn.layers
    ]
    assert plan == [(4, 32, (8, 8), (4, 4)), (32, 64, (4, 4), (2, 2)), (64, 64, (3, 3), (1, 1))]
    assert jax.eval_shape(cnn, np.zeros((2, 4, 84, 84), np.uint8)).shape == (2, 7 * 7 * 64)


def test_bytes_of_a_picture_are_scaled_to_the_unit_interval():
    cnn = filled(lambda: networks.make_cnn(KEY, GREY.shape))
    picture = sample(GREY, 0)
    np.testing.assert_allclose(
        call(cnn, picture),
        call(cnn, np.asarray(picture).astype(np.float32) / 255),
        rtol=1e-5,
        atol=1e-6,
    )


def test_a_convolution_looks_where_it_should():
    """A change of one pixel reaches the features of its neighborhood alone."""
    cnn = filled(lambda: networks.make_cnn(KEY, GREY.shape))
    picture = np.full((2, *GREY.shape), 100, np.uint8)
    picture[1, 4, 4] = 200
    before, after = np.asarray(call(cnn, picture))
    change = (before - after).reshape(*GREY.shape, -1)
    rows, columns = np.nonzero(np.abs(change).sum(-1))
    # two layers of 3×3
    assert rows.size and (abs(rows - 4) <= 2).all() and (abs(columns - 4) <= 2).all()


ACTIVATIONS = {
    "relu": lambda x: np.maximum(x, 0),
    "tanh": np.tanh,
    "silu": lambda x: x / (1 + np.exp(-x)),
    "gelu": lambda x: 0.5 * x * (1 + np.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3))),
    "elu": lambda x: np.where(x > 0, x, np.exp(np.minimum(x, 0)) - 1),
}


@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_an_mlp_is_its_layers_with_the_activation_between(activation):
    net = filled(lambda: make_mlp(KEY, (3, 5, 4, 2), activation))
    x = np.random.default_rng(0).normal(size=(2, 7, 3))
    expected = x
    for i, layer in enumerate(net.layers):
        expected = expected @ np.asarray(layer.weight, float).T + np.asarray(layer.bias, float)
        expected = ACTIVATIONS[activation](expected) if i < 2 else expected
    np.testing.assert_allclose(call(net, np.float32(x)), expected, rtol=1e-4, atol=1e-5)


def test_no_hidden_layer_is_a_linear_network():
    net = filled(lambda: make_network(KEY, Box((3,)), (), 2))
    a, b = np.float32([1, 2, 3]), np.float32([-1, 0, 5])
    out = lambda x: np.asarray(call(net, x))
    np.testing.assert_allclose(
        out(a + b) + out(np.zeros(3, np.float32)), out(a) + out(b), rtol=1e-5
    )
    assert len(net.head.layers) == 1


@jax.jit
def initialized(key):
    return make_network(key, Box((6,)), (8, 4), 3, final_scale=0.01)


def test_weights_are_orthogonal_with_the_gain_of_their_layer():
    for layer, gain in zip(
        initialized(KEY).head.layers, (math.sqrt(2), math.sqrt(2), 0.01), strict=True
    ):
        weight = np.asarray(layer.weight, float)
        gram = weight @ weight.T if weight.shape[0] <= weight.shape[1] else weight.T @ weight
        np.testing.assert_allclose(gram, gain**2 * np.eye(min(weight.shape)), atol=1e-5 * gain**2)
        assert not layer.bias.any()


@pytest.mark.slow
def test_initializations_in_one_vmap_are_those_of_their_keys():
    keys = jax.random.split(KEY, 3)
    many = jax.jit(jax.vmap(initialized))(keys)
    for i in range(3):
        jax.tree.map(
            lambda x, y, i=i: np.testing.assert_allclose(x[i], y, atol=1e-5),
            many,
            initialized(keys[i]),
        )
    weights = many.head.layers[0].weight
    assert not np.allclose(weights[0], weights[1])  # and each its own


def test_without_a_scale_weights_are_uniform_over_one_over_the_root_of_inputs():
    layer = jax.jit(lambda: make_mlp(KEY, (100, 400)).layers[0])()
    for x in map(np.asarray, (layer.weight, layer.bias)):
        assert abs(x).max() <= 0.1 and abs(x).max() > 0.099
        assert x.std() == pytest.approx(0.1 / math.sqrt(3), rel=0.05)


def test_layers_of_one_network_have_their_own_weights():
    @jax.jit
    def weights():
        images = networks.make_encoder(KEY, Composite((GREY, GREY))).cnns
        return [layer.weight for layer in make_mlp(KEY, (4, 4, 4)).layers], [
            cnn.layers[0].weight for cnn in images
        ]

    for one, other in weights():
        assert not np.allclose(one, other)


@pytest.mark.slow
def test_a_network_is_a_pytree_of_arrays_alone():
    """So that plain `jax.grad`, `vmap` and optax work on it."""
    net = filled(lambda: make_network(KEY, NESTED, (4,), 2))
    assert all(eqx.is_array(leaf) for leaf in jax.tree.leaves(net))
    gradient = jax.jit(jax.grad(lambda net, x: net(x).sum()))(net, sample(NESTED, 0, 4))
    assert jax.tree.structure(gradient) == jax.tree.structure(net)
    assert all(np.isfinite(leaf).all() and np.any(leaf) for leaf in jax.tree.leaves(gradient))


def test_layer_norm_makes_what_enters_an_activation_mean_zero_and_variance_one():
    net = filled(lambda: make_mlp(KEY, (3, 6, 5, 2), layer_norm=True))
    x = np.random.default_rng(0).normal(size=(4, 3)).astype(np.float32)
    expected = x.astype(float)
    for layer, norm in zip(net.layers[:-1], net.norms, strict=True):
        expected = expected @ np.asarray(layer.weight, float).T + np.asarray(layer.bias)
        expected = (expected - expected.mean(-1, keepdims=True)) / np.sqrt(
            expected.var(-1, keepdims=True) + 1e-5
        )
        expected = np.maximum(
            expected * np.asarray(norm.weight, float) + np.asarray(norm.bias, float), 0
        )
    expected = expected @ np.asarray(net.layers[-1].weight, float).T + np.asarray(
        net.layers[-1].bias
    )
    np.testing.assert_allclose(call(net, x), expected, rtol=1e-4, atol=1e-5)
    inputs = x @ np.asarray(net.layers[0].weight).T
    ours, library = jax.jit(
        lambda norm: (networks.apply_layer_norm(norm, inputs), jax.vmap(norm)(inputs))
    )(net.norms[0])
    np.testing.assert_allclose(ours, library, rtol=1e-4, atol=1e-5)
    fresh = jax.jit(lambda: make_mlp(KEY, (3, 6, 5, 2), layer_norm=True).norms)()
    assert all((np.asarray(norm.weight) == 1).all() and not np.any(norm.bias) for norm in fresh)


@pytest.mark.parametrize("hidden", [(6,), pytest.param((7, 6), marks=pytest.mark.slow)])
def test_dueling_values_are_the_states_plus_what_an_action_is_above_their_mean(hidden):
    net = filled(
        lambda: networks.make_dueling_network(KEY, Box((3,)), hidden, num_actions=4, num_atoms=2)
    )
    x = np.random.default_rng(0).normal(size=(5, 3)).astype(np.float32)
    assert (net.head.trunk is None) == (len(hidden) == 1)

    @jax.jit
    def parts(net):
        features = jax.nn.relu(net.head.trunk(x)) if net.head.trunk else x
        return net(x), net.head.advantage(features), net.head.value(features)

    outputs, advantage, value = jax.device_get(parts(net))
    assert outputs.shape == (5, 8)
    outputs, advantage = outputs.reshape(5, 4, 2), advantage.reshape(5, 4, 2)
    np.testing.assert_allclose(outputs.mean(1), value, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(
        outputs - outputs.mean(1, keepdims=True),
        advantage - advantage.mean(1, keepdims=True),
        atol=1e-5,
    )
    assert jax.eval_shape(net, x[0]).shape == (8,)


SYMBOLS = Box((7, 7, 3), "uint8", 0.0, 255.0)  # a board of few symbols: values far below the bound


@pytest.fixture(scope="module")
def boards():
    """Boards [n, 7, 7, 3] of symbols 0 to 10: walls and a floor that change little."""
    rng = np.random.default_rng(0)
    boards = np.full((32, *SYMBOLS.shape), 1, np.uint8)
    boards[:, 0] = boards[:, :, 0] = [2, 5, 0]
    row, column = rng.integers(1, 7, (2, 32))
    boards[np.arange(32), row, column] = [8, 1, 0]
    boards[np.arange(32), column, row] = [10, 0, 3]
    return boards


def test_a_policy_tells_boards_of_small_numbers_apart(boards):
    """As well as boards of large ones: its features have the scale 1 in any unit of the pixels."""
    torso, _ = jax.jit(lambda: make_torso(KEY, SYMBOLS, (4,), 2))()
    cnn = torso.encoder.cnns[0]
    for layer in cnn.layers:
        matrix = np.asarray(layer.weight).reshape(layer.out_channels, -1)
        narrow = matrix if matrix.shape[0] <= matrix.shape[1] else matrix.T
        np.testing.assert_allclose(narrow @ narrow.T, 2 * np.eye(len(narrow)), atol=1e-5)
        assert (layer.bias == 0).all()
    small, large = (np.asarray(call(cnn, unit * boards)) for unit in (np.uint8(1), np.uint8(25)))
    np.testing.assert_allclose((small**2).mean(-1), 1, rtol=0.01)
    assert small.std(0).mean() > 0.1
    np.testing.assert_allclose(small, large, atol=0.01)
    assert np.isfinite(call(cnn, np.zeros_like(boards))).all()


def test_a_network_of_q_has_features_as_they_come():
    assert not jax.eval_shape(lambda: make_network(KEY, SYMBOLS, (4,), 2)).encoder.cnns[0].normalize
