"""What can be a goal, and how far it is, against NumPy."""

import numpy as np
import pytest

from etude.environments.goal_spaces import (
    achieved_goal,
    goal_distance,
    goal_space,
    has_distance,
    has_goals,
    shows_goal,
)
from etude.errors import InvalidInput
from etude.spaces import Box, Composite, Discrete, MultiBinary

LINE, PICTURE = Box((2,)), Box((2, 2), "uint8", 0, 255)
DESIRED = Composite((LINE, PICTURE, LINE), ("achieved_goal", "desired_goal", "observation"))


def test_a_goal_is_what_is_achieved_or_the_whole_observation():
    assert has_goals(DESIRED) and goal_space(DESIRED) == LINE
    unnamed = Composite((LINE, LINE))
    for space in (LINE, Discrete(3), unnamed, Composite((LINE,), ("desired_goal",))):
        assert not has_goals(space) and goal_space(space) == space


ROBOT = Composite(
    (MultiBinary((2,)), PICTURE, Box((3,)), LINE), ("action_mask", "eye", "gripper", "position")
)


def test_parts_of_an_observation_that_are_named_are_the_goal():
    """Entries of a Dict, in its order, also where it shows a goal; elements of a vector."""
    seen = {
        "action_mask": np.ones((5, 2)),
        "eye": np.ones((5, 2, 2)),
        "gripper": np.ones((5, 3)),
        "position": np.arange(10.0).reshape(5, 2),
    }
    names = ("position", "gripper")
    space = goal_space(ROBOT, names)
    assert space == Composite((Box((3,)), LINE), ("gripper", "position"))
    goal = achieved_goal(ROBOT, seen, names)
    assert goal.keys() == set(names) and goal["position"] is seen["position"]
    other = {"gripper": np.ones((5, 3)), "position": seen["position"] + [3, 4]}
    np.testing.assert_allclose(goal_distance(space, goal, other), 5)

    assert shows_goal(DESIRED) and not shows_goal(DESIRED, ("observation",))
    assert goal_space(DESIRED, ("observation",)) == Composite((LINE,), ("observation",))

    vector = Box((4,), "float64", low=(0.0, 1.0, 2.0, 3.0), high=9.0)
    part = Box((2,), "float64", low=(1.0, 3.0), high=(9.0, 9.0))
    assert goal_space(vector, ("3", "1")) == part
    rows = np.arange(8.0).reshape(2, 4)
    np.testing.assert_array_equal(achieved_goal(vector, rows, ("3", "1")), rows[:, [1, 3]])


@pytest.mark.parametrize(
    ("space", "names", "message"),
    [
        (ROBOT, ("hand", "eye"), "goal is 'hand', and .* entries eye, gripper, position; name"),
        (ROBOT, ("action_mask",), "goal is 'action_mask', and .* entries eye, gripper, position"),
        (Box((4,)), ("4",), "goal is '4', and .* vectors of 4 elements; give indices from 0 to 3"),
        (Box((4,)), ("-1", "place"), "goal is '-1', 'place', and observations are vectors"),
        (PICTURE, ("0",), "goal is '0', and observations are Box.*neither a Dict nor a vector"),
        (Composite((LINE, LINE)), ("0",), "neither a Dict nor a vector; leave goal out"),
        (Discrete(3), ("0",), "neither a Dict nor a vector; leave goal out"),
    ],
)
def test_names_of_what_is_not_there_are_refused_with_those_that_are(space, names, message):
    with pytest.raises(InvalidInput, match=message):
        goal_space(space, names)


@pytest.mark.parametrize(
    ("space", "expected"),
    [
        (LINE, True),
        (Discrete(3), False),
        (Composite((Discrete(3), LINE)), True),
        (Composite((LINE, Discrete(3)), ("action_mask", "place")), False),
        (Composite((MultiBinary((3,)),)), False),
    ],
)
def test_a_distance_needs_a_box(space, expected):
    assert has_distance(space) == expected


def test_the_distance_is_that_of_all_boxes_together():
    """Of pictures too, whose differences do not wrap; not of masks nor choices."""
    names = ("action_mask", "choice", "eye", "place")
    space = Composite((Box((3,)), Discrete(9), PICTURE, LINE), names)
    rng = np.random.default_rng(0)
    one, other = (
        {
            "action_mask": rng.normal(size=(5, 3)),
            "choice": rng.integers(9, size=5),
            "eye": rng.integers(256, size=(5, 2, 2), dtype=np.uint8),
            "place": rng.normal(size=(5, 2)).astype(np.float32),
        }
        for _ in range(2)
    )
    squares = sum(
        ((one[name].astype(float) - other[name]) ** 2).reshape(5, -1).sum(1)
        for name in ("eye", "place")
    )
    np.testing.assert_allclose(goal_distance(space, one, other), np.sqrt(squares), rtol=1e-6)
