"""Gymnasium environments of every kind of space, and ones that fail, to test what hosts them.

Importing this module registers "etude-tests/Noise-v0", as a user's own module would.
"""

import copy
import sys

import gymnasium
import numpy as np
from gymnasium.spaces import Box, Dict, Discrete, MultiBinary, MultiDiscrete, Tuple

OBSERVATIONS = {
    "box": Box(-np.inf, np.inf, (3,)),
    "float64": Box(-1, 1, (2,), np.float64),
    "scalar": Box(-1, 1, ()),
    "integers": Box(-5, 500, (2, 2), np.int64),
    "image": Box(0, 255, (6, 5, 3), np.uint8),
    "discrete": Discrete(5, start=-2),
    "multidiscrete": MultiDiscrete([[2, 3], [4, 5]], start=[[0, 7], [-1, 2]]),
    "multibinary": MultiBinary((2, 3)),
    "dict": Dict(z=Box(-1, 1, (2,)), a=Discrete(3, start=1), image=Box(0, 255, (4, 4), np.uint8)),
    "nested": Tuple(
        (
            MultiBinary(2),
            Dict(b=Discrete(4, start=9), a=Tuple((Box(-1, 1, (2, 1)), MultiDiscrete([3, 4])))),
        )
    ),
}
ACTIONS = {
    "discrete": Discrete(3, start=-1),
    "multidiscrete": MultiDiscrete([[2, 3], [4, 2]], start=[[0, 5], [-3, 0]]),
    "multibinary": MultiBinary((2, 2)),
    "bounded": Box(np.float32([-2, 0]), np.float32([2, 10])),
    "unbounded": Box(-np.inf, np.inf, (2,)),
    "float64": Box(-2, 2, (1,), np.float64),
    "integers": Box(0, 10, (2,), np.int32),
}


class Noise(gymnasium.Env):
    """Observes samples of its space, never two alike for long; keeps what it told and what it was
    given.

    Episodes end at random, about one step in eight, by termination or truncation.
    """

    def __init__(self, observation_space=OBSERVATIONS["box"], action_space=ACTIONS["discrete"]):
        # each copy has its own randomness
        self.observation_space = copy.deepcopy(observation_space)
        self.action_space = copy.deepcopy(action_space)
        self.given = []  # actions
        # (observation, reward, terminated, truncated); the reward of a reset is None
        self.told = []

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        if seed is not None:
            self.observation_space.seed(seed)
        self.told.append((self.observation_space.sample(), None, False, False))
        return self.told[-1][0], {}

    def step(self, action):
        self.given.append(action)
        ends = self.np_random.random(2) < 1 / 16
        self.told.append(
            (self.observation_space.sample(), self.np_random.normal(), bool(ends[0]), bool(ends[1]))
        )
        return *self.told[-1], {}


class Echo(gymnasium.Env):
    """Observes the action it was given; never ends."""

    def __init__(self, action_space):
        self.action_space = copy.deepcopy(action_space)
        self.observation_space = Box(-np.inf, np.inf, action_space.shape)

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        return np.zeros(self.observation_space.shape, np.float32), {}

    def step(self, action):
        return np.asarray(action, np.float32), 0.0, False, False, {}


class Faulty(gymnasium.Env):
    """Does what it should until step `at` of its life (0: its first reset), and then what `fault`
    says."""

    observation_space = Box(-np.inf, np.inf, (2,))
    action_space = Discrete(2)

    def __init__(self, fault="raise", at=3):
        self.fault, self.at, self.life = fault, at, 0

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        return self._observe(), {}

    def step(self, action):
        self.life += 1
        fails = self.life == self.at
        if fails and self.fault == "bad reward":
            return np.zeros(2, np.float32), "much", False, False, {}
        if fails and self.fault == "too few":
            return np.zeros(2, np.float32), 0.0, False
        return (
            self._observe(),
            np.nan if fails and self.fault == "nan reward" else 1.0,
            self.life % 5 == 0,
            False,
            {},
        )

    def _observe(self):
        if self.life != self.at:
            return np.full(2, self.life, np.float32)
        match self.fault:
            case "raise":
                raise ZeroDivisionError("the simulator broke")
            case "nan observation":
                return np.float32([0, np.nan])
            case "shape":
                return np.zeros(3, np.float32)
            case "none":
                return None
            case "infinite":
                return np.float32([np.inf, -np.inf])
        return np.zeros(2, np.float32)


class Unmakeable(gymnasium.Env):
    """Has spaces, and cannot be made."""

    observation_space = Box(-1, 1, (1,))
    action_space = Discrete(2)

    def __init__(self):
        raise OSError("no licence for the simulator")


class Modules(gymnasium.Env):
    """Observes whether its process has imported JAX."""

    observation_space = Box(0, 1, (1,))
    action_space = Discrete(2)

    def reset(self, *, seed=None, options=None):
        return np.float32(["jax" in sys.modules]), {}

    def step(self, action):
        return np.float32(["jax" in sys.modules]), 0.0, False, False, {}


if "etude-tests/Noise-v0" not in gymnasium.registry:
    gymnasium.register("etude-tests/Noise-v0", f"{__name__}:Noise", max_episode_steps=20)


def stacked(space, count):
    """So many samples of a space, stacked."""
    import jax  # not above, since processes of workers that have imported this have no JAX

    return jax.tree.map(lambda *x: np.stack(x), *(space.sample() for _ in range(count)))
