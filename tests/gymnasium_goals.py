"""Goal environments of Gymnasium in plain NumPy, to test what asks for the reward of goals."""

import gymnasium
import numpy as np

NEAR = 0.5  # goals that are nearer than this are reached


class Line(gymnasium.Env):
    """Walk on the integers -3 to 3 to a goal, in float64; reward -1 a step until it is reached.

    The functions of goals take batches of them, and keep the sizes of what they were given.
    """

    action_space = gymnasium.spaces.Discrete(3)

    def __init__(self):
        goal = gymnasium.spaces.Box(-3, 3, (1,), np.float64)
        self.observation_space = gymnasium.spaces.Dict(
            {"observation": goal, "achieved_goal": goal, "desired_goal": goal}
        )
        self.calls = []

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.position, self.goal = (self.np_random.integers(-3, 4, 1).astype(float) for _ in "ab")
        return self._observe(), {}

    def step(self, action):
        self.position = np.clip(self.position + action - 1, -3, 3)
        goals = self.position, self.goal
        reward = self.compute_reward(*goals, {})
        return self._observe(), float(reward), bool(self.ends(*goals)), False, {}

    def compute_reward(self, achieved_goal, desired_goal, info):
        assert achieved_goal.dtype == desired_goal.dtype == np.float64
        assert info == {} if achieved_goal.ndim == 1 else info == [{}] * len(achieved_goal)
        self.calls.append(achieved_goal.shape)
        return -1.0 * (np.abs(achieved_goal - desired_goal)[..., 0] > NEAR)

    def ends(self, achieved_goal, desired_goal):
        return np.abs(achieved_goal - desired_goal)[..., 0] < NEAR

    def _observe(self):
        position, goal = self.position.copy(), self.goal.copy()
        return {"observation": position, "achieved_goal": position, "desired_goal": goal}


class EndlessLine(Line):
    """Says nothing of terminations, and never terminates."""

    def ends(self, achieved_goal, desired_goal):
        return False


class EndingLine(Line):
    """Terminates at the goal, and says so."""

    def compute_terminated(self, achieved_goal, desired_goal, info):
        return self.ends(achieved_goal, desired_goal)


class SingleLine(EndingLine):
    """Its functions are of single goals, and give one number for a batch of them."""

    def compute_reward(self, achieved_goal, desired_goal, info):
        self.calls.append(achieved_goal.shape)
        return -float(np.linalg.norm(achieved_goal - desired_goal) > NEAR)

    def compute_terminated(self, achieved_goal, desired_goal, info):
        return bool(np.linalg.norm(achieved_goal - desired_goal) < NEAR)


class DisagreeingLine(EndlessLine):
    """Its steps reward twice what its function says."""

    def step(self, action):
        observation, reward, *ends = super().step(action)
        return observation, 2 * reward, *ends


class EarlyLine(EndingLine):
    """Its steps terminate next to the goal already."""

    def ends(self, achieved_goal, desired_goal):
        return np.abs(achieved_goal - desired_goal)[..., 0] < 2 * NEAR + 0.1

    def compute_terminated(self, achieved_goal, desired_goal, info):
        return np.abs(achieved_goal - desired_goal)[..., 0] < NEAR
