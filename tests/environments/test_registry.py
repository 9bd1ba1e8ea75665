"""From a name to an environment, or to one clear word on why not."""
import importlib.util

import gymnasium
import gymnasium_probes
import pytest

from etude.environments import make, registry
from etude.environments.envpool_backend import EnvPool
from etude.environments.gymnasium_backend import Gymnasium
from etude.environments.jax_backend import Jax
from etude.errors import InvalidInput

gymnasium_probes.register()


def test_auto_takes_jax_then_envpool_then_gymnasium(monkeypatch):
    assert isinstance(make("CartPole-v1"), Jax)
    pytest.importorskip("envpool", reason="EnvPool is an extra")
    assert isinstance(make("LunarLander-v3", 2), EnvPool)
    assert isinstance(make("etude-probes/Counter-v0", 2), Gymnasium)
    absent = lambda name, find=importlib.util.find_spec: None if name == "envpool" else find(name)
    monkeypatch.setattr(importlib.util, "find_spec", absent)
    assert isinstance(make("LunarLander-v3", 2), Gymnasium)
    with pytest.raises(InvalidInput, match=r'pip install "etude\[envpool\]"'):
        make("LunarLander-v3", 2, "envpool")


def test_options_and_workers_mean_gymnasium():
    environment = make("CartPole-v1", options={"max_episode_steps": 7})
    assert isinstance(environment, Gymnasium)
    assert environment.copies.simulators[0].spec.max_episode_steps == 7
    with pytest.raises(InvalidInput, match="gymnasium"):
        make("CartPole-v1", backend="jax", options={"render_mode": None})


@pytest.mark.parametrize(("name", "words"), [
    ("LunarLander-v2", ["retired", "LunarLander-v3"]), ("HalfCheetah-v2", ["retired", "HalfCheetah-v5"]),
    ("HalfCheetah-v3", ["retired", "HalfCheetah-v5"]), ("Taxi-v3", ["Taxi-v4"]), ("CartPole-v7", ["CartPole-v7", "CartPole-v1"]),
    ("lunarlander", ["LunarLander-v3"]), ("Moonlander-v3", ["LunarLander-v3"]),
    ("no_such_module:Env-v0", ["no_such_module", "cannot be imported"]), ("", ["cannot be made"])])
def test_what_cannot_be_had_says_why_and_what_would_do(name, words):
    with pytest.raises(InvalidInput) as refusal:
        make(name, backend="gymnasium")
    for word in words:
        assert word in str(refusal.value)


@pytest.mark.parametrize(("word", "package", "name"), [("mujoco", "mujoco", "HalfCheetah-v5"), ("atari", "ale_py", "ALE/Pong-v5")])
def test_a_missing_extra_is_named(word, package, name):
    if importlib.util.find_spec(package):
        pytest.skip(f"{package} is installed here, so it cannot be missed")
    with pytest.raises(InvalidInput, match=rf'pip install "etude\[{word}\]"'):
        make(name)


def test_unsupported_spaces_are_refused_by_name():
    class Talks(gymnasium.Env):
        observation_space = gymnasium.spaces.Text(8)
        action_space = gymnasium.spaces.Discrete(2)
    with pytest.raises(InvalidInput, match="Text"):
        Gymnasium(Talks, 1)


def test_backends_that_are_no_backends_and_copies_that_are_none():
    with pytest.raises(InvalidInput, match="tpu"):
        make("CartPole-v1", backend="tpu")
    with pytest.raises(InvalidInput, match="num_envs is 0"):
        make("CartPole-v1", 0)
    with pytest.raises(InvalidInput, match="CartPole-v1"):
        make("LunarLander-v3", backend="jax")


def test_the_list_says_backends_and_spaces():
    rows = {name: rest for name, *rest in registry.listing("cartpole")}
    assert "jax" in rows["CartPole-v1"][0] and "gymnasium" in rows["CartPole-v1"][0]
    assert "Discrete(2)" in rows["CartPole-v1"][2]
    assert registry.listing("no such thing") == []
