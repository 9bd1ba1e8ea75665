"""Side cameras of Gymnasium environments: what is observed, and what is refused."""

import gymnasium
import numpy as np
import pytest

from etude.environments.wrappers.side_views import SideViewsWrapper
from etude.errors import EnvironmentFault, InvalidInput


class Rail(gymnasium.Env):
    """A point on a line observes its place; its cameras are 2 to the left and to the right."""

    observation_space = gymnasium.spaces.Box(-np.inf, np.inf, (1,))
    action_space = gymnasium.spaces.Box(-1, 1, (1,))

    def __init__(self, **views):
        self.views = {"left": (-2.0, [0.5]), "right": (2.0, [-0.5])} | views

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.place = np.zeros(1, np.float32)
        return self.place, {}

    def step(self, action):
        self.place = self.place + np.float32(action)
        return self.place, 0.0, False, False, {}

    def side_views(self):
        return {side: (self.place + where, by) for side, (where, by) in self.views.items()}


def test_the_views_of_both_sides_are_observed_with_their_corrections():
    env = SideViewsWrapper(gymnasium.wrappers.TimeLimit(Rail(), 9))
    for observation in (env.reset(seed=0)[0], env.step(np.ones(1))[0]):
        place = observation["center"]
        assert env.observation_space.contains(observation)
        np.testing.assert_array_equal(observation["left"]["observation"], place - 2)
        np.testing.assert_array_equal(observation["right"]["observation"], place + 2)
        np.testing.assert_array_equal(observation["left"]["correction"], [0.5])
        np.testing.assert_array_equal(observation["right"]["correction"], [-0.5])
    assert place == 1


def test_an_environment_without_side_cameras_is_refused_by_name():
    with pytest.raises(InvalidInput, match="^Pendulum-v1 has no side cameras.*side_views.*leave"):
        SideViewsWrapper(gymnasium.make("Pendulum-v1"))


def test_actions_that_nothing_can_be_added_to_are_refused():
    env = Rail()
    env.action_space = gymnasium.spaces.Discrete(3)
    with pytest.raises(InvalidInput, match=r"those of Rail are Discrete\(3\); leave"):
        SideViewsWrapper(env)


@pytest.mark.parametrize(
    "views, message",
    [
        ({"above": (0, [0])}, r"returned \{'left': .* return a dict of 'left' and 'right'"),
        ({"left": (0, [0, 0])}, r"of its left camera is \[0. 0.\]; .* shape of an action, \(1,\)"),
        ({"right": (0, [np.nan])}, r"of its right camera is \[nan\]; give finite numbers"),
    ],
)
def test_what_is_no_side_view_is_said(views, message):
    with pytest.raises(EnvironmentFault, match=message):
        SideViewsWrapper(Rail(**views)).reset()


def test_what_is_no_pair_is_said():
    env = Rail()
    env.side_views = lambda: [1, 2]
    with pytest.raises(EnvironmentFault, match=r"side_views\(\) returned \[1, 2\]; return a dict"):
        SideViewsWrapper(env).reset()
