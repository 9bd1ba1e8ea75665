"""The share of successes in an evaluation, where the infos of Gymnasium say so."""

import gymnasium
import numpy as np
import pytest

import etude
from etude.environments.backends.gymnasium_envs import GymnasiumEnvs
from etude.runs.evaluation import success_rate


class EveryThird(gymnasium.Env):
    """Two steps an episode, and every third episode of an environment is a success."""

    observation_space = gymnasium.spaces.Box(-1, 1, (1,), np.float32)
    action_space = gymnasium.spaces.Discrete(2)
    says_so = True
    episode = -1

    def reset(self, *, seed=None, options=None):
        self.episode, self.time = self.episode + 1, 0
        return np.zeros(1, np.float32), {}

    def step(self, action):
        self.time += 1
        info = {"is_success": np.float32(self.episode % 3 == 0)} if self.says_so else {}
        return np.zeros(1, np.float32), 0.0, False, self.time == 2, info


class Silent(EveryThird):
    says_so = False


def test_successes_are_those_of_the_last_steps_since_a_reset():
    environment = GymnasiumEnvs(EveryThird, 2)
    environment._reset(0)
    for _ in range(7):
        environment._step(np.zeros(2, np.int32))
    assert environment.successes() == [[True, False, False]] * 2
    assert success_rate(environment, 4) == 0.5  # of two episodes each
    assert success_rate(environment, 6) == pytest.approx(1 / 3)
    assert success_rate(environment, 8) is None  # a fourth has not ended
    environment._reset(0)
    assert environment.successes() == [[], []]


@pytest.mark.system
def test_an_evaluation_tells_the_share_of_each_seed(tmp_path):
    options = {"steps": 4, "seeds": 2, "evaluation_episodes": 3, "progress": False}
    run = etude.train("random", EveryThird, out=tmp_path / "run", **options)
    success = run.summary["evaluation"]["success"]
    # each of three copies plays one episode for each seed: its first, and after a reset its third
    assert success["per_seed"] == [1.0, 0.0] and success["iqm"] == 0.5
    silent = etude.train("random", Silent, out=tmp_path / "silent", **options)
    assert "success" not in silent.summary["evaluation"]
