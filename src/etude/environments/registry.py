"""The registry: what an id stands for on each backend, or why it stands for nothing."""

import contextlib
import difflib
import importlib
import importlib.util
import io
import warnings
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any, Literal

import gymnasium

from etude.environments.backends import envpool_envs
from etude.environments.classic import PARTIALLY_OBSERVED_PORTS, PORTS
from etude.environments.tasks.avoiding import limited_avoiding
from etude.environments.tasks.cart_pole_swing_up import limited_cart_pole_swing_up
from etude.environments.tasks.fork import Fork
from etude.environments.tasks.lanes import limited_lanes
from etude.environments.tasks.noisy_pendulum import limited_noisy_pendulum
from etude.environments.tasks.point_room import POINT_ROOMS
from etude.environments.tasks.push import limited_push
from etude.environments.tasks.t_maze import limited_t_maze
from etude.environments.tasks.tightrope import limited_tightrope
from etude.environments.wrappers.action_mask import make_with_action_mask
from etude.environments.wrappers.dm_control import (
    NAMESPACE,
    has_dm_control,
    make_dm_control,
    register_dm_control,
)
from etude.errors import EnvironmentFault, InvalidInput
from etude.importing import import_module, split_name

Backend = Literal["auto", "jax", "envpool", "gymnasium"]
JAX_ENVIRONMENTS = {
    **PORTS,
    **PARTIALLY_OBSERVED_PORTS,
    **POINT_ROOMS,
    "etude/Tightrope-v0": limited_tightrope,
    "etude/TMaze-v0": limited_t_maze,
    "etude/Fork-v0": Fork,
    "etude/Avoiding-v0": limited_avoiding,
    "etude/Push-v0": limited_push,
    "etude/Lanes-v0": limited_lanes,
    "etude/CartPoleSwingUp-v0": limited_cart_pole_swing_up,
    "etude/NoisyPendulum-v0": limited_noisy_pendulum,
}
# modules that register ids of etude with Gymnasium
OWN_ENVIRONMENTS = (
    "etude.environments.tasks.continuous_cart_pole_env",
    "etude.environments.wrappers.hide_velocity",
    "etude.environments.tasks.point_room_env",
    "etude.environments.tasks.tightrope_env",
    "etude.environments.tasks.t_maze_env",
    "etude.environments.tasks.fork_env",
    "etude.environments.tasks.avoiding_env",
    "etude.environments.tasks.push_env",
    "etude.environments.tasks.lanes_env",
    "etude.environments.tasks.cart_pole_swing_up_env",
    "etude.environments.tasks.noisy_pendulum_env",
)
# part of an entry point -> the extra of etude that installs it
EXTRAS = {"gymnasium_robotics": "robotics", "box2d": "box2d", "mujoco": "mujoco", "ale_py": "atari"}
# how the ids of Gymnasium-Robotics begin, which have no namespace
ROBOTICS = (
    "AdroitHand",
    "AntMaze",
    "Fetch",
    "FrankaKitchen",
    "HandManipulate",
    "HandReach",
    "PointMaze",
)


def choose_backend(
    name: str, backend: str, gymnasium_only: bool = False
) -> Literal["jax", "envpool", "gymnasium"]:
    """Return the backend on which the environment `name` is made.

    Raises InvalidInput when the requested one does not have the environment.
    """
    match backend:
        case "jax" if name not in JAX_ENVIRONMENTS:
            raise InvalidInput(
                f"{name!r} has no JAX port; those that have are {', '.join(JAX_ENVIRONMENTS)}. "
                "Choose --backend auto"
            )
        case "envpool" if importlib.util.find_spec("envpool") is None:
            raise InvalidInput('EnvPool is not installed: pip install "etude[envpool]"')
        case "envpool" if not envpool_envs.supports(name):
            raise InvalidInput(
                f"EnvPool has no float32 environment {name!r}; choose --backend auto"
            )
        case "jax" | "envpool" if gymnasium_only:
            raise InvalidInput(
                "environment options, workers and action masks need --backend gymnasium, not "
                f"{backend}"
            )
        case "auto" if gymnasium_only:
            return "gymnasium"
        case "auto":
            if name in JAX_ENVIRONMENTS:
                return "jax"
            return (
                "envpool"
                if name in gymnasium.registry and envpool_envs.supports(name)
                else "gymnasium"
            )
        case "jax" | "envpool" | "gymnasium":
            return backend
    raise InvalidInput(f"backend is {backend!r}; choose one of auto, jax, envpool, gymnasium")


def env_factory(
    name: str,
    options: dict[str, Any] | None = None,
    render_mode: str | None = None,
    action_masks: bool = False,
) -> Callable[[], gymnasium.Env]:
    """Return a function that makes the Gymnasium environment `name`.

    With `action_masks` the masks are part of its observation. Raises InvalidInput, with a remedy,
    for an id that is not registered.
    """
    if render_mode is not None:
        options = {**(options or {}), "render_mode": render_mode}
    register_plugins(name)
    with explained_creation(name, options):
        module, env_id = split_name("environment", name)
        if module:
            import_module("environment", name)
        spec = gymnasium.spec(env_id)  # all that another process needs
    options = {"disable_env_checker": True, **(options or {})}
    make_env = (
        partial(make_dm_control, env_id, **options)
        if env_id.startswith(NAMESPACE)
        else partial(gymnasium.make, spec, **options)
    )
    return partial(make_with_action_mask, make_env) if action_masks else make_env


@contextlib.contextmanager
def explained_creation(name: str, options: dict[str, Any] | None) -> Iterator[None]:
    """Raise InvalidInput, with a remedy, where the environment `name` cannot be made in the block.

    Gymnasium's warnings of newer versions are left out, since the remedy names them.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            yield
        except InvalidInput:
            raise
        except EnvironmentFault as fault:  # of its first reset
            raise InvalidInput(str(fault)) from fault
        except (Exception, SystemExit) as error:
            raise InvalidInput(creation_error(name, options, error)) from error


def creation_error(name: str, options: dict[str, Any] | None, error: BaseException) -> str:
    """Explain why the environment cannot be made, and name a remedy."""
    env_id = name.split(":")[-1]
    spec = gymnasium.registry.get(env_id)
    newest = newest_version(env_id)
    # MuJoCo's old bindings, which no extra installs
    needs_old = isinstance(error, ImportError) or "mujoco_py" in str(error)
    retired = spec is not None and newest != env_id and needs_old
    if isinstance(error, gymnasium.error.DeprecatedEnv) or retired:
        return f"environment {name!r} is retired; use {newest}"
    if isinstance(error, gymnasium.error.NamespaceNotFound) and name.startswith("ALE/"):
        return f'environment {name!r} needs Atari: pip install "etude[atari]"'
    if spec is None and env_id.startswith(NAMESPACE) and not has_dm_control():
        return (
            f'environment {name!r} needs dm_control: pip install "etude[dm-control]", for Python '
            "3.11 or 3.12"
        )
    if spec is None and env_id.startswith(ROBOTICS) and not has_robotics():
        return f'environment {name!r} needs Gymnasium-Robotics: pip install "etude[robotics]"'
    if isinstance(error, gymnasium.error.UnregisteredEnv) or (spec is None and newest):
        close_matches = difflib.get_close_matches(
            env_id.lower(), {i.lower(): i for i in gymnasium.registry}, n=3, cutoff=0.5
        )
        names = [
            i
            for lowercase_id in close_matches
            for i in gymnasium.registry
            if i.lower() == lowercase_id
        ]
        hint = (
            f"did you mean {' or '.join(dict.fromkeys([*([newest] if newest else []), *names]))}? "
            if names or newest
            else ""
        )
        return (
            f"no environment is called {name!r}; {hint}"
            "`etude environments` lists them, and yours is module:Name"
        )
    if isinstance(error, (gymnasium.error.DependencyNotInstalled, ImportError)):
        extra = next(
            (extra for module, extra in EXTRAS.items() if spec and module in str(spec.entry_point)),
            None,
        )
        return f"environment {name!r} needs what is not installed: " + (
            f'pip install "etude[{extra}]"' if extra else str(error)
        )
    with_options = f" with options {options}" if options else ""
    message = f"environment {name!r} cannot be made{with_options}: {type(error).__name__}: {error}"
    if spec and "gymnasium_robotics" in str(spec.entry_point):
        message += '; pip install "etude[robotics]" installs a version of MuJoCo that it works with'
    if env_id.startswith(NAMESPACE) and isinstance(error, AttributeError):  # of a newer MuJoCo
        message += (
            '; pip install "etude[dm-control]" installs a version of MuJoCo that it works with'
        )
    return message


def newest_version(name: str) -> str | None:
    """The id of the newest registered version of an environment, ignoring the version in `name`."""
    try:
        namespace, base, _ = gymnasium.envs.registration.parse_env_id(name)
    except gymnasium.error.Error:
        return None
    versions = [
        spec
        for spec in gymnasium.registry.values()
        if (spec.namespace, spec.name) == (namespace, base)
    ]
    return max(versions, key=lambda spec: spec.version or 0).id if versions else None


def register_plugins(name: str) -> None:
    """Register the ids of etude, Atari, dm_control and robots with Gymnasium, as `name` needs."""
    env_id = name.split(":")[-1]
    if name.startswith("etude/"):
        for module in OWN_ENVIRONMENTS:
            importlib.import_module(module)
    if name.startswith("ALE/") and importlib.util.find_spec("ale_py"):
        gymnasium.register_envs(importlib.import_module("ale_py"))
    if env_id.startswith(NAMESPACE) and has_dm_control():
        register_dm_control()
    if env_id.startswith(ROBOTICS) and env_id not in gymnasium.registry and has_robotics():
        with contextlib.redirect_stderr(io.StringIO()):  # it prints what is wrong in old versions
            gymnasium.register_envs(importlib.import_module("gymnasium_robotics"))


def has_robotics() -> bool:
    """Return whether Gymnasium-Robotics is installed."""
    return importlib.util.find_spec("gymnasium_robotics") is not None


def list_environments(substring: str = "") -> list[tuple[str, list[str], str, str]]:
    """List the environments whose id contains `substring`, ignoring case.

    Rows are (id, backends, observation space, action space). Reading the spaces makes the
    environment, so they are "" for more than ten matches; where a dependency is missing the error
    stands in their place.
    """
    register_plugins("ALE/")
    register_plugins("etude/")
    register_plugins(NAMESPACE)
    register_plugins("FetchReach")
    names = sorted(name for name in gymnasium.registry if substring.lower() in name.lower())
    rows = []
    for name in names:
        backends = [
            *(["jax"] if name in JAX_ENVIRONMENTS else []),
            *(["envpool"] if envpool_envs.supports(name) else []),
            "gymnasium",
        ]
        spaces = ("", "")
        if len(names) <= 10:
            try:
                with explained_creation(name, None):
                    environment = env_factory(name)()
                spaces = str(environment.observation_space), str(environment.action_space)
                environment.close()
            except InvalidInput as error:
                spaces = str(error), ""
        rows.append((name, backends, *spaces))
    return rows
