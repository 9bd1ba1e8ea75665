"""From a name to copies of an environment, or to one clear word on why not."""

import importlib.machinery
import importlib.util
import sys
from types import ModuleType

import gymnasium
import jax
import numpy as np
import pytest

import etude
from etude.environments import make, registry
from etude.environments.backends import envpool_envs
from etude.environments.backends.gymnasium_envs import GymnasiumEnvs
from etude.environments.backends.jax_envs import JaxEnvs
from etude.environments.classic import PORTS
from etude.environments.registry import choose_backend, env_factory, list_environments
from etude.errors import InvalidInput

envpool_is_here = importlib.util.find_spec("envpool") is not None
with_envpool = pytest.mark.skipif(
    not envpool_is_here, reason="EnvPool is an extra, without wheels for every platform"
)


def without(monkeypatch, module):
    """As if `module` were not installed."""
    find = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util,
        "find_spec",
        lambda name, *rest: None if name == module else find(name, *rest),
    )
    monkeypatch.setitem(sys.modules, module, None)


@pytest.mark.parametrize("name", PORTS)
def test_auto_takes_the_port_first(name):
    assert choose_backend(name, "auto") == "jax"
    assert choose_backend(name, "auto", gymnasium_only=True) == "gymnasium"


@with_envpool
def test_auto_takes_envpool_next():
    assert choose_backend("FrozenLake-v1", "auto") == "envpool"
    assert choose_backend("FrozenLake-v1", "auto", gymnasium_only=True) == "gymnasium"
    assert choose_backend("Blackjack-v1", "auto") == "gymnasium"
    # numbers of float64 in a Dict
    assert not envpool_envs.supports("FetchReach-v4") and envpool_envs.supports("FrozenLake-v1")
    environment = make("FrozenLake-v1", 2)
    assert type(environment).__name__ == "EnvPoolEnvs" and environment.spec.num_envs == 2


def test_auto_takes_gymnasium_last(monkeypatch):
    assert choose_backend("etude-tests/Noise-v0", "auto") == "gymnasium"
    without(monkeypatch, "envpool")
    assert choose_backend("FrozenLake-v1", "auto") == "gymnasium"


def test_what_is_asked_for_is_what_is_made():
    assert isinstance(make("CartPole-v1", 3), JaxEnvs) and etude.make is make
    for backend, kind in (("jax", JaxEnvs), ("gymnasium", GymnasiumEnvs)):
        environment = make("CartPole-v1", 3, backend)
        assert isinstance(environment, kind) and environment.spec.num_envs == 3
    assert environment.spec == make("CartPole-v1", 3).spec  # the port is a true stand-in


def test_the_port_has_the_time_limit_of_the_registration():
    for name, port in PORTS.items():
        assert port().limit == gymnasium.spec(name).max_episode_steps


@pytest.mark.slow
def test_options_are_passed_on():
    environment = make("Pendulum-v1", 2, options={"g": 3.5, "max_episode_steps": 4})
    assert isinstance(environment, GymnasiumEnvs)
    assert [simulator.unwrapped.g for simulator in environment.vector_env.envs] == [3.5, 3.5]
    state, _ = environment.reset(jax.random.key(0))
    for t in range(1, 5):
        state, _, outcome = environment.step(state, np.zeros((2, 1), np.float32), jax.random.key(t))
        assert (outcome.truncated == (t == 4)).all()


@pytest.mark.parametrize(
    "asked, message",
    [
        (dict(environment="CartPole-v1", num_envs=0), "num_envs is 0; it must be at least 1"),
        (
            dict(environment="CartPole-v1", backend="torch"),
            "backend is 'torch'; choose one of auto, jax, envpool, gymnasium",
        ),
        (
            dict(environment="LunarLander-v3", backend="jax"),
            "'LunarLander-v3' has no JAX port; those that have are CartPole-v1, Pend",
        ),
        (
            dict(environment="CartPole-v1", backend="jax", options={"g": 1}),
            "options, workers and action masks need --backend gymnasium, not jax",
        ),
        (
            dict(environment="CartPole-v1", backend="jax", workers=2),
            "options, workers and action masks need --backend gymnasium, not jax",
        ),
        (
            dict(environment="CartPole-v1", options={"nonsense": 1}),
            r"'CartPole-v1' cannot be made with options \{'nonsense': 1\}: TypeError: .*nonsense",
        ),
        # retired
        (
            dict(environment="LunarLander-v2"),
            "environment 'LunarLander-v2' is retired; use LunarLander-v3",
        ),
        (
            dict(environment="FrozenLake-v0"),
            "environment 'FrozenLake-v0' is retired; use FrozenLake-v1",
        ),
        (dict(environment="Ant-v2"), "environment 'Ant-v2' is retired; use Ant-v5"),
        # near misses
        (
            dict(environment="Cartpole-v1"),
            "no environment is called 'Cartpole-v1'; did you mean CartPole-v1",
        ),
        (
            dict(environment="cartpole"),
            "no environment is called 'cartpole'; did you mean CartPole-v1",
        ),
        (dict(environment="CartPole"), "did you mean CartPole-v1"),
        (
            dict(environment="CartPole-v9"),
            "no environment is called 'CartPole-v9'; did you mean CartPole-v1",
        ),
        (dict(environment="Pendulun-v1"), "did you mean Pendulum-v1"),
        (
            dict(environment="Xyzzy"),
            "no environment is called 'Xyzzy'; `etude environments` lists them, and yours is "
            "module:Name",
        ),
        (dict(environment="a/b/c"), "environment 'a/b/c' cannot be made: .*Malformed"),
        # a user's own
        (
            dict(environment="no_such_module:Thing-v0"),
            "the module 'no_such_module' cannot be imported .*install it, or mend its name",
        ),
        (
            dict(environment="gymnasium_spaces:etude-tests/Nois-v0"),
            "did you mean etude-tests/Noise-v0",
        ),
    ],
    ids=lambda asked: "-".join(map(str, asked.values())) if isinstance(asked, dict) else "",
)
def test_what_cannot_be_had_is_said_in_one_clear_word(asked, message):
    with pytest.raises(InvalidInput, match=message):
        make(**asked)


@pytest.mark.parametrize(
    "module, name, message",
    [
        (
            "mujoco",
            "Hopper-v5",
            r"'Hopper-v5' needs what is not installed: pip install \"etude\[mujoco\]\"",
        ),
        (
            "Box2D",
            "BipedalWalker-v3",
            r"'BipedalWalker-v3' needs what is not installed: pip install \"etude\[box2d\]\"",
        ),
        ("ale_py", "ALE/Pong-v5", r"'ALE/Pong-v5' needs Atari: pip install \"etude\[atari\]\""),
        (
            "gymnasium_robotics",
            "FetchReach-v4",
            r"'FetchReach-v4' needs Gymnasium-Robotics: pip install \"etude\[robotics\]\"",
        ),
        (
            "dm_control",
            "dm_control/walker-walk-v0",
            r"'dm_control/walker-walk-v0' needs dm_control: pip install \"etude\[dm-control\]\"",
        ),
    ],
)
def test_a_missing_extra_is_named(monkeypatch, module, name, message):
    without(monkeypatch, "envpool")
    without(monkeypatch, module)
    for part in [
        part
        for part in sys.modules
        if part.startswith(("gymnasium.envs.mujoco", "gymnasium.envs.box2d"))
    ]:
        monkeypatch.delitem(sys.modules, part)
    if module in ("ale_py", "gymnasium_robotics", "dm_control"):
        others = {
            name: spec
            for name, spec in gymnasium.registry.items()
            if module not in str(spec.entry_point)
        }
        for place in (gymnasium, gymnasium.envs.registration):
            monkeypatch.setattr(place, "registry", others)
    with pytest.raises(InvalidInput, match=message):
        make(name)


class FakeRobotics(ModuleType):
    """Stands for Gymnasium-Robotics: its newest robot needs another MuJoCo, its old one the old."""

    def __init__(self):
        super().__init__("gymnasium_robotics")
        self.__spec__ = importlib.machinery.ModuleSpec("gymnasium_robotics", None)

    def newest(self, **options):
        raise AssertionError

    def old(self, **options):
        raise gymnasium.error.DependencyNotInstalled("No module named 'mujoco_py'")


@pytest.mark.parametrize(
    "name, message",
    [
        (
            "FetchTest-v4",
            r"'FetchTest-v4' cannot be made: AssertionError: ; pip install \"etude\[robotics\]\" "
            "installs a version of MuJoCo that it works with",
        ),
        ("FetchTest-v1", "environment 'FetchTest-v1' is retired; use FetchTest-v4"),
        ("FetchTest-v9", "no environment is called 'FetchTest-v9'; did you mean FetchTest-v4"),
    ],
)
def test_robots_are_registered_where_they_are_installed(monkeypatch, name, message):
    monkeypatch.setitem(sys.modules, "gymnasium_robotics", FakeRobotics())
    monkeypatch.setattr(gymnasium.envs.registration, "registry", dict(gymnasium.registry))
    monkeypatch.setattr(gymnasium, "registry", gymnasium.envs.registration.registry)
    import_module = importlib.import_module

    def register(module):
        if module == "gymnasium_robotics" and "FetchTest-v4" not in gymnasium.registry:
            print("a notice", file=sys.stderr)
            gymnasium.register("FetchTest-v1", "gymnasium_robotics:old")
            gymnasium.register("FetchTest-v4", "gymnasium_robotics:newest")
        return import_module(module)

    monkeypatch.setattr(importlib, "import_module", register)
    with pytest.raises(InvalidInput, match=message):
        make(name, backend="gymnasium")


def test_envpool_is_asked_for_and_missing(monkeypatch):
    without(monkeypatch, "envpool")
    with pytest.raises(
        InvalidInput, match=r'EnvPool is not installed: pip install "etude\[envpool\]"'
    ):
        make("CartPole-v1", backend="envpool")


@with_envpool
@pytest.mark.parametrize(
    "asked, message",
    [
        (
            dict(environment="etude-tests/Noise-v0"),
            "EnvPool has no float32 environment 'etude-tests/Noise-v0'; choose --backend auto",
        ),
        (dict(environment="Blackjack-v1"), "EnvPool has no float32 environment 'Blackjack-v1'"),
        (
            dict(environment="CartPole-v1", workers=1),
            "options, workers and action masks need --backend gymnasium, not envpool",
        ),
    ],
)
def test_envpool_is_asked_for_what_it_does_not_have(asked, message):
    with pytest.raises(InvalidInput, match=message):
        make(backend="envpool", **asked)


def test_an_environment_of_a_users_own_module(monkeypatch):
    """module:Name imports the module, which registers the name; the module the other tests hold
    comes back afterwards."""
    monkeypatch.delitem(gymnasium.registry, "etude-tests/Noise-v0", raising=False)
    monkeypatch.delitem(sys.modules, "gymnasium_spaces", raising=False)
    environment = make("gymnasium_spaces:etude-tests/Noise-v0", 2)
    assert isinstance(environment, GymnasiumEnvs) and "etude-tests/Noise-v0" in gymnasium.registry
    assert environment.vector_env.name == "etude-tests/Noise-v0"
    environment.reset(jax.random.key(0))


def test_the_judge_is_gymnasium_itself():
    env = env_factory("CartPole-v1", render_mode="rgb_array")()
    assert env.unwrapped.render_mode == "rgb_array" and env.spec.id == "CartPole-v1"


def test_the_listing_names_backends_and_spaces():
    rows = {name: rest for name, *rest in list_environments("cartpole-v1")}
    backends, observation, action = rows["CartPole-v1"]
    assert backends == ["jax", *(["envpool"] if envpool_is_here else []), "gymnasium"]
    assert observation.startswith("Box(") and action == "Discrete(2)"
    assert list_environments("no such name") == []
    everything = list_environments()
    assert len(everything) > 10 and [name for name, *_ in everything] == sorted(
        name for name, *_ in everything
    )
    assert all(spaces == ["", ""] for _, _, *spaces in everything)


def test_the_newest_version_is_found():
    assert registry.newest_version("CartPole-v0") == "CartPole-v1"
    assert registry.newest_version("CartPole") == "CartPole-v1"
    assert registry.newest_version("Xyzzy-v0") is None and registry.newest_version("a/b/c") is None
