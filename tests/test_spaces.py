"""Specs against the Gymnasium spaces they stand for."""

from functools import partial

import gymnasium
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from gymnasium import spaces
from hypothesis import given, settings
from hypothesis import strategies as st

from etude.errors import InvalidInput
from etude.spaces import (
    Box,
    Composite,
    Discrete,
    EnvironmentSpec,
    MultiBinary,
    MultiDiscrete,
    action_offset,
    from_environment_action,
    gymnasium_dtype,
    leaves_with_path,
    space_from_gymnasium,
    space_to_gymnasium,
    to_environment_action,
    with_normalized_actions,
)

INF = float("inf")

PAIRS = [
    (spaces.Box(-1, 1, (3,)), Box((3,), "float32", -1.0, 1.0)),
    (spaces.Box(-1, 1, ()), Box((), "float32", -1.0, 1.0)),
    (spaces.Box(-1, 1, (0,)), Box((0,), "float32", (), ())),
    (spaces.Box(-INF, INF, (2, 2)), Box((2, 2))),
    (spaces.Box(0, INF, (2,)), Box((2,), low=0.0)),
    (
        spaces.Box(np.float32([0, -INF]), np.float32([INF, 1])),
        Box((2,), "float32", (0.0, -INF), (INF, 1.0)),
    ),
    (
        spaces.Box(np.float32([[1, 2], [3, 4]]), np.float32([[5, 6], [7, 8]])),
        Box((2, 2), "float32", (1.0, 2.0, 3.0, 4.0), (5.0, 6.0, 7.0, 8.0)),
    ),
    (spaces.Box(-2, 2, (1,), np.float64), Box((1,), "float64", -2.0, 2.0)),
    (spaces.Box(0, 255, (4, 4, 3), np.uint8), Box((4, 4, 3), "uint8", 0.0, 255.0)),
    (spaces.Box(-5, 7, (2,), np.int32), Box((2,), "int32", -5.0, 7.0)),
    (spaces.Box(0, 2**63 - 1, (2,), np.int64), Box((2,), "int64", 0, 2**63 - 1)),
    (spaces.Box(-INF, INF, (2,), np.int64), Box((2,), "int64", -(2**63), 2**63 - 1)),
    (spaces.Box(0, 1, (2,), bool), Box((2,), "bool", 0, 1)),
    (spaces.Discrete(4), Discrete(4)),
    (spaces.Discrete(3, start=-1), Discrete(3, -1)),
    (spaces.Discrete(3, dtype=np.int32), Discrete(3, dtype="int32")),
    (spaces.MultiDiscrete([2, 3]), MultiDiscrete((2, 3), (0, 0), (2,))),
    (
        spaces.MultiDiscrete([[2, 3], [4, 5]], start=[[1, 0], [2, -1]]),
        MultiDiscrete((2, 3, 4, 5), (1, 0, 2, -1), (2, 2)),
    ),
    (spaces.MultiBinary(3), MultiBinary((3,))),
    (spaces.MultiBinary((2, 3)), MultiBinary((2, 3))),
    (
        spaces.Tuple((spaces.Discrete(2), spaces.MultiBinary(2))),
        Composite((Discrete(2), MultiBinary((2,)))),
    ),
    (spaces.Tuple(()), Composite(())),
    (
        spaces.Dict(
            b=spaces.Discrete(2),
            a=spaces.Tuple((spaces.Discrete(3), spaces.Dict(z=spaces.Discrete(4)))),
        ),
        Composite(
            (Composite((Discrete(3), Composite((Discrete(4),), ("z",)))), Discrete(2)), ("a", "b")
        ),
    ),
]


def boxes():
    """Boxes of every kind of bound, per element."""

    @st.composite
    def box(draw):
        shape = draw(st.sampled_from([(), (1,), (3,), (2, 2)]))
        dtype = draw(st.sampled_from([np.float32, np.float64, np.int32, np.int64, np.uint8]))
        integer = np.issubdtype(dtype, np.integer)
        size = int(np.prod(shape))
        low = np.array(draw(st.lists(st.integers(0, 9), min_size=size, max_size=size)), dtype)
        high = low + np.array(
            draw(st.lists(st.integers(1, 9), min_size=size, max_size=size)), dtype
        )
        if not integer:
            low[draw(st.lists(st.booleans(), min_size=size, max_size=size))] = -INF
            high[draw(st.lists(st.booleans(), min_size=size, max_size=size))] = INF
        return spaces.Box(low.reshape(shape), high.reshape(shape), dtype=dtype)

    return box()


leaf_spaces = st.one_of(
    boxes(),
    st.builds(
        lambda n, start: spaces.Discrete(n, start=start), st.integers(1, 9), st.integers(-9, 9)
    ),
    st.builds(
        lambda sizes: spaces.MultiDiscrete(sizes),
        st.lists(st.integers(1, 9), min_size=1, max_size=4),
    ),
    st.builds(lambda shape: spaces.MultiBinary(shape), st.sampled_from([1, 4, (2, 3)])),
)
nested_spaces = st.recursive(
    leaf_spaces,
    lambda inner: st.one_of(
        st.lists(inner, max_size=3).map(spaces.Tuple),
        st.dictionaries(st.text("abz_", min_size=1, max_size=3), inner, max_size=3).map(
            spaces.Dict
        ),
    ),
    max_leaves=6,
)


@pytest.mark.parametrize("space, spec", PAIRS, ids=str)
def test_specs_say_what_spaces_say(space, spec):
    assert space_from_gymnasium(space) == spec
    assert hash(space_from_gymnasium(space)) == hash(spec)
    assert space_to_gymnasium(spec) == space


@given(nested_spaces)
def test_a_space_comes_back_from_its_spec(space):
    spec = space_from_gymnasium(space)
    assert space_to_gymnasium(spec) == space
    assert space_from_gymnasium(space_to_gymnasium(spec)) == spec
    assert {EnvironmentSpec(spec, Discrete(2), 3): "hashable"}


@pytest.mark.slow
@settings(deadline=None)
@given(nested_spaces)
def test_leaves_are_in_the_order_of_jax(space):
    spec, value = space_from_gymnasium(space), space.sample()
    listed = leaves_with_path(spec)
    found = jax.tree.leaves(value)
    assert len(listed) == len(found)
    for (path, leaf), array in zip(listed, found, strict=True):
        part = value
        for key in path:
            part = part[key]
        assert part is array
        assert space_to_gymnasium(leaf).contains(np.asarray(array))
    for (_, leaf), zeros in zip(listed, jax.tree.leaves(spec.zeros()), strict=True):
        assert zeros.shape == getattr(leaf, "shape", ())


@settings(deadline=None)
@given(nested_spaces)
def test_trees_split_what_they_assemble(space):
    spec = space_from_gymnasium(space)
    if isinstance(spec, Composite):
        parts = list(range(len(spec.parts)))
        assert spec.split(spec.assemble(parts)) == parts


def test_zeros_have_the_dtype_jax_keeps():
    assert Box((2,), "float64").zeros().dtype == jnp.float32
    assert Box((2,), "uint8").zeros().dtype == jnp.uint8
    assert Discrete(3).zeros().dtype == MultiDiscrete((2,), (0,), (1,)).zeros().dtype == jnp.int32
    assert MultiBinary((3,)).zeros().dtype == jnp.int8


UNSUPPORTED = [
    spaces.Text(5),
    spaces.Sequence(spaces.Discrete(2)),
    spaces.Graph(spaces.Discrete(2), None),
]


@pytest.mark.parametrize("space", UNSUPPORTED, ids=lambda space: type(space).__name__)
@pytest.mark.parametrize("role", ["observation", "action"])
def test_what_has_no_array_form_is_refused_by_name(space, role):
    with pytest.raises(InvalidInput) as refusal:
        space_from_gymnasium(space, role)
    message = str(refusal.value)
    assert message.startswith(
        f"the {role} space is {space}; {type(space).__name__} is not supported there."
    )
    assert "Supported: Discrete, MultiDiscrete, MultiBinary and Box" in message
    assert ("Dict and Tuple" in message) == (role == "observation")


@pytest.mark.parametrize(
    "space", [spaces.Dict(a=spaces.Discrete(2)), spaces.Tuple((spaces.Discrete(2),))], ids=str
)
def test_trees_of_actions_are_refused(space):
    with pytest.raises(InvalidInput, match="the action space is .* is not supported there"):
        space_from_gymnasium(space, "action")


def test_a_refusal_says_where_in_the_observation():
    with pytest.raises(InvalidInput, match=r"the observation\['camera'\]\[1\] space is Text"):
        space_from_gymnasium(spaces.Dict(camera=spaces.Tuple((spaces.Discrete(2), spaces.Text(3)))))


def test_bounds_have_the_shape_of_the_box():
    box = Box((2, 2), low=(0.0, -INF, 2.0, 3.0), high=9.0)
    low, high = box.bounds
    np.testing.assert_array_equal(low, [[0, -INF], [2, 3]])
    np.testing.assert_array_equal(high, [[9, 9], [9, 9]])
    np.testing.assert_array_equal(box.is_bounded, [[True, False], [True, True]])
    assert Box((), low=0.0, high=1.0).bounds[0].shape == ()


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize(
    "space, action, expected",
    [
        # bounded: [-1, 1] to [low, high], clipped there
        (
            Box((1,), low=-2.0, high=2.0),
            [[-1], [0], [0.5], [1], [7], [-7]],
            [[-2], [0], [1], [2], [2], [-2]],
        ),
        (Box((1,), low=0.0, high=10.0), [[-1], [0], [1], [3]], [[0], [5], [10], [10]]),
        (Box((), low=1.0, high=3.0), [-1, 0, 1], [1, 2, 3]),
        # each dimension has its own bounds, in row-major order
        (
            Box((2,), low=(-1.0, 0.0), high=(1.0, 4.0)),
            [[0.5, 0.5], [-1, -1], [9, 9]],
            [[0.5, 3], [-1, 0], [1, 4]],
        ),
        (
            Box((2, 2), low=(0.0, 1.0, 2.0, 3.0), high=8.0),
            [[[-1, -1], [-1, -1]]],
            [[[0, 1], [2, 3]]],
        ),
        # one bound only clips
        (Box((1,), low=0.0), [[-3], [0.5], [7]], [[0], [0.5], [7]]),
        (Box((1,), high=1.0), [[-30], [0.5], [7]], [[-30], [0.5], [1]]),
        (
            Box((3,), low=(-2.0, 0.0, -INF), high=(2.0, INF, INF)),
            [[0.5, 0.5, 0.5], [-9, -9, -9]],
            [[1, 0.5, 0.5], [-2, 0, -9]],
        ),
        # no bound passes
        (Box((2,)), [[-30, 30]], [[-30, 30]]),
        (Box((1,), low=-3.4e38, high=3.4e38), [[-1], [0], [1]], [[-3.4e38], [0], [3.4e38]]),
        # integers are rounded to the nearest
        (
            Box((1,), "int32", 0.0, 10.0),
            [[-1], [-0.5], [0.09], [1], [2]],
            [[0], [2], [5], [10], [10]],
        ),
        (Box((1,), "uint8", 0.0, 255.0), [[-1], [1], [5]], [[0], [255], [255]]),
        # choices are counted from the space's start
        (Discrete(3, start=-1), [0, 1, 2], [-1, 0, 1]),
        (
            MultiDiscrete((2, 3, 4, 5), (1, 0, 2, -1), (2, 2)),
            [[[0, 0], [0, 0]], [[1, 2], [3, 4]]],
            [[[1, 0], [2, -1]], [[2, 2], [5, 3]]],
        ),
        (MultiBinary((2,)), [[0, 1]], [[0, 1]]),
    ],
    ids=str,
)
def test_actions_in_the_terms_of_the_environment(space, action, expected):
    for leading in (lambda x: x, lambda x: x[None]):  # any leading axes
        told = jax.jit(partial(to_environment_action, space))(leading(np.asarray(action)))
        np.testing.assert_allclose(told, leading(np.asarray(expected)), rtol=1e-6)
        assert told.dtype in (jnp.float32, jnp.int32)


@settings(deadline=None)
@given(boxes(), st.floats(-3, 3, width=32))
def test_every_action_is_in_the_space(space, number):
    told = to_environment_action(
        space_from_gymnasium(space, "action"), jnp.full(space.shape, number, jnp.float32)
    )
    assert space.contains(np.asarray(told).astype(space.dtype))


@pytest.mark.parametrize(
    "space, action, expected",
    [
        (Box((1,), low=-2.0, high=2.0), [[-2], [0], [1], [2], [7]], [[-1], [0], [0.5], [1], [1]]),
        (Box((1,), "float64", -2.0, 2.0), np.array([[-2], [0.5]]), [[-1], [0.25]]),
        (Box((), low=1.0, high=3.0), [1, 2, 3], [-1, 0, 1]),
        (
            Box((3,), low=(-2.0, 0.0, -INF), high=(2.0, INF, INF)),
            [[1, 0.5, 0.5], [-2, 9, -9]],
            [[0.5, 0.5, 0.5], [-1, 9, -9]],
        ),
        (Box((1,), low=-3.4e38, high=3.4e38), [[-3.4e38], [0], [3.4e38]], [[-1], [0], [1]]),
        (Box((2,), low=(1.0, -1.0), high=1.0), [[1, 1]], [[0, 1]]),  # a single value: any action
        (Box((1,), "uint8", 0.0, 255.0), np.array([[0], [255]], np.uint8), [[-1], [1]]),
        (Box((2,), "bool", 0, 1), np.array([[False, True]]), [[-1, 1]]),
        (Discrete(3, start=-1), [-1, 0, 1], [0, 1, 2]),
        (MultiDiscrete((2, 3), (1, -4), (2,)), [[1, -4], [2, -2]], [[0, 0], [1, 2]]),
        (MultiBinary((2,)), [[0, 1]], [[0, 1]]),
    ],
    ids=str,
)
def test_actions_in_the_terms_of_the_policy(space, action, expected):
    action = np.asarray(action)
    if isinstance(space, Box) and action.dtype == np.int64:
        action = action.astype(np.float32)
    told = from_environment_action(space, action)
    np.testing.assert_array_equal(told, expected)
    assert isinstance(told, np.ndarray)
    assert told.dtype == np.float32 if isinstance(space, Box) else told.dtype == action.dtype
    back = to_environment_action(space, told)
    assert isinstance(back, np.ndarray)
    if not (action == 7).any():  # which is outside
        np.testing.assert_allclose(back, action, rtol=1e-6)


@given(boxes(), st.integers(0, 2**32 - 1))
def test_an_action_of_the_environment_is_had_back(space, seed):
    space.seed(seed)
    action, spec = space.sample(), space_from_gymnasium(space, "action")
    told = from_environment_action(spec, np.asarray(action))
    assert (np.abs(told)[spec.is_bounded] <= 1).all()
    back = to_environment_action(spec, told.astype(np.float64))
    if np.issubdtype(space.dtype, np.integer):
        np.testing.assert_array_equal(back, action)
    else:
        largest = np.where(spec.is_bounded, 18, np.abs(action))  # no bound is larger
        np.testing.assert_array_less(np.abs(back - action), 2**-23 * largest + 1e-30)


@pytest.mark.parametrize("half_width", [0.25, 1.0, 2.0])
def test_bounds_that_are_powers_of_two_lose_nothing(half_width):
    box = Box((), low=-half_width, high=half_width)
    unit = np.random.default_rng(0).uniform(-1, 1, 1000).astype(np.float32)
    np.testing.assert_array_equal(
        from_environment_action(box, to_environment_action(box, unit)), unit
    )


def test_what_a_gymnasium_environment_takes():
    assert gymnasium_dtype(Discrete(3)) is None
    assert gymnasium_dtype(Box((1,), "float64")) == "float64"
    assert gymnasium_dtype(MultiDiscrete((2,), (0,), (1,))) == "int64"
    assert gymnasium_dtype(MultiBinary((2,))) == "int8"
    assert action_offset(Discrete(3)) is None and action_offset(Discrete(3, start=-1)) == -1
    assert action_offset(MultiDiscrete((2, 3), (0, 0), (2,))) is None
    np.testing.assert_array_equal(action_offset(MultiDiscrete((2, 3), (0, 4), (1, 2))), [[0, 4]])
    assert action_offset(Box((1,))) is None


def test_specs_of_registered_environments():
    env = gymnasium.make("CartPole-v1")
    spec = EnvironmentSpec(
        space_from_gymnasium(env.observation_space),
        space_from_gymnasium(env.action_space, "action"),
        8,
    )
    assert spec.observation.shape == (4,) and spec.action == Discrete(2)
    assert space_to_gymnasium(spec.observation) == env.observation_space


def test_a_unit_box_is_what_a_bounded_policy_gives():
    spec = EnvironmentSpec(Discrete(2), Box((2, 1), "int32", 0.0, 10.0), 1)
    assert with_normalized_actions(spec).action == Box((2, 1), low=-1.0, high=1.0)
