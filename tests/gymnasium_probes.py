"""The Counter and TimeLimited probes as Gymnasium environments in plain NumPy, to test what hosts
such environments."""

import time

import gymnasium
import numpy as np


class Counter(gymnasium.Env):
    """The observation is the number of steps taken; terminates after `length` of them, reward 1 a
    step."""

    def __init__(self, length: int = 10):
        self.length = length
        self.observation_space = gymnasium.spaces.Box(0, length, (1,), np.float32)
        self.action_space = gymnasium.spaces.Discrete(2)

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.count = 0
        return self._observe(), {}

    def step(self, action):
        self.count += 1
        return self._observe(), 1.0, self.count >= self.length, False, {}

    def _observe(self):
        return np.array([self.count], np.float32)


class RandomWalk(gymnasium.Env):
    """A walk in two dimensions, which its seed and its actions determine; terminates after `length`
    steps, reward 1 for the second action and 2 for the third."""

    observation_space = gymnasium.spaces.Box(-np.inf, np.inf, (2,), np.float32)

    def __init__(self, length: int = 10**9, num_actions: int = 3):
        self.length, self.action_space = length, gymnasium.spaces.Discrete(num_actions)

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.time, self.place = 0, self.np_random.normal(size=2)
        return self.place.astype(np.float32), {}

    def step(self, action):
        self.time += 1
        self.place = 0.9 * self.place + action + self.np_random.normal(size=2)
        return self.place.astype(np.float32), float(action), self.time >= self.length, False, {}


class Waits(gymnasium.Env):
    """Waits in one of its calls, from its second step on, in one of several ways."""

    observation_space = gymnasium.spaces.Box(-1, 1, (1,))
    action_space = gymnasium.spaces.Discrete(2)

    def __init__(self, where="step", how="sleep"):
        self.where, self.how, self.time = where, how, 0
        self.wait("make")

    def wait(self, where):
        if where != self.where:
            return
        if self.how == "sleep":
            time.sleep(60)
        end = time.monotonic() + 60
        while time.monotonic() < end:
            try:
                sum(range(100))
            except Exception:  # as an environment may, around all it does
                continue

    def reset(self, *, seed=None, options=None):
        if self.time:
            self.wait("reset")
        return np.zeros(1, np.float32), {}

    def step(self, action):
        self.time += 1
        if self.time > 1:
            self.wait("step")
        return np.zeros(1, np.float32), 0.0, self.time == 2, False, {}

    def close(self):
        self.wait("close")


class TimeLimited(gymnasium.Env):
    """Reward 1 a step for ever, under a constant observation; only a time limit ends it."""

    observation_space = gymnasium.spaces.Box(-1, 1, (1,), np.float32)
    action_space = gymnasium.spaces.Discrete(2)

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        return np.zeros(1, np.float32), {}

    def step(self, action):
        return np.zeros(1, np.float32), 1.0, False, False, {}


def register() -> None:
    """Give Gymnasium "etude-probes/Counter-v0" (ten steps) and "etude-probes/TimeLimited-v0" (cut
    off after five)."""
    for name, probe, limit in (("Counter", Counter, None), ("TimeLimited", TimeLimited, 5)):
        identifier = f"etude-probes/{name}-v0"
        if identifier not in gymnasium.registry:
            gymnasium.register(identifier, f"{__name__}:{probe.__name__}", max_episode_steps=limit)
