"""Budgets in which nothing would be learned, and buffers that hold less than asked."""

from functools import partial

import jax
import pytest

import etude
from etude.algorithms.actor_critic.sac import SAC
from etude.algorithms.policy_gradient.reinforce import Reinforce
from etude.algorithms.trust_region.ppo import PPO
from etude.algorithms.value.dqn import DQN
from etude.algorithms.value.naf import NAF
from etude.algorithms.value.td3 import TD3
from etude.data.replay import ring_buffer
from etude.errors import InvalidInput
from etude.runs.display import NullDisplay
from etude.runs.options import RunOptions
from etude.runs.train import check_budget, resolve_settings
from etude.spaces import Box, Discrete, EnvironmentSpec
from etude.struct import replace

CASES = {
    "dqn": (DQN(warmup_steps=1_001), "CartPole-v1", 1_004),
    "naf": (NAF(warmup_steps=100), "Pendulum-v1", 100),
    "sac": (SAC(warmup_steps=33, rollout_length=16), "Pendulum-v1", 48),
    "td3": (TD3(warmup_steps=0), "Pendulum-v1", 1),
    "reinforce": (Reinforce(batch_steps=500, rollout_length=8), "CartPole-v1", 504),
    "ppo": (PPO(), "CartPole-v1", 1_024),
}


@pytest.mark.parametrize("name", CASES)
def test_a_budget_is_enough_from_the_first_update_on(name):
    algorithm, environment, first = CASES[name]
    assert algorithm.first_update(algorithm.default_num_envs)[0] == first
    settings = resolve_settings(algorithm, environment, RunOptions(steps=2_000), name)
    check_budget(replace(settings, steps=first))
    if first > settings.steps_per_iteration:
        with pytest.raises(InvalidInput, match=f"learns nothing before {first:,} "):
            check_budget(replace(settings, steps=first - 1))


def test_a_run_is_refused_before_there_is_a_folder(tmp_path):
    words = r"steps is 500, and dqn learns nothing before 1,000 \(warmup_steps 1,000\)"
    with pytest.raises(InvalidInput, match=words):
        etude.train(DQN(), "CartPole-v1", steps=500, out=tmp_path / "run")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(("capacity", "num_envs"), [(100, 3), (96, 8), (100, 5), (20, 5)])
def test_what_a_buffer_holds_is_said_where_it_is_less(capacity, num_envs):
    dqn = DQN(capacity=capacity, batch_size=20)
    spec = EnvironmentSpec(Box((2,)), Discrete(2), num_envs)
    buffer = jax.eval_shape(partial(dqn.init, spec=spec), jax.random.key(0)).replay
    held = ring_buffer.length(buffer) * num_envs
    remarks = dqn.remarks(num_envs, 1_000)
    assert len(remarks) == (held < capacity)
    assert not dqn.remarks(num_envs, held)  # it never fills
    if remarks:
        assert f"holds {held:,} transitions" in remarks[0] and f"capacity {capacity}" in remarks[0]


def test_a_batch_larger_than_what_is_held_is_said():
    (remark,) = DQN(capacity=100, batch_size=98).remarks(3, 1_000)
    assert "holds 96 transitions" in remark and "a batch of 98 is drawn with repeats" in remark


def test_a_run_says_it_at_its_start(tmp_path, monkeypatch):
    said = []
    monkeypatch.setattr(NullDisplay, "warn", lambda self, text: said.append(text))
    monkeypatch.setattr("etude.runs.train.run_jobs", lambda run, interrupt, warn: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        etude.train(
            DQN(capacity=90), "CartPole-v1", steps=2_000, out=tmp_path / "run", progress=False
        )
    assert any("holds 88 transitions" in text for text in said)
