"""What can be a goal, and how far it is, against NumPy."""

import numpy as np
import pytest

from etude.environments.goal_spaces import goal_distance, goal_space, has_distance, has_goals
from etude.spaces import Box, Composite, Discrete, MultiBinary

LINE, PICTURE = Box((2,)), Box((2, 2), "uint8", 0, 255)
DESIRED = Composite((LINE, PICTURE, LINE), ("achieved_goal", "desired_goal", "observation"))


def test_a_goal_is_what_is_achieved_or_the_whole_observation():
    assert has_goals(DESIRED) and goal_space(DESIRED) == LINE
    unnamed = Composite((LINE, LINE))
    for space in (LINE, Discrete(3), unnamed, Composite((LINE,), ("desired_goal",))):
        assert not has_goals(space) and goal_space(space) == space


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
