"""Sources of environments: a Gymnasium id, a function that makes one, or an object written in JAX.

A source makes batches of its environment on a backend, for training, evaluation and pictures. To
read the spaces of Gymnasium environments it makes one more, once in its life.
"""

import contextlib
from collections.abc import Callable, Iterator
from functools import cached_property, partial
from typing import Any, Literal, NamedTuple, NoReturn, Protocol

import gymnasium

from etude.environments.backends.envpool_envs import EnvPoolEnvs, envpool_spec
from etude.environments.backends.gymnasium_envs import GymnasiumEnvs, check_reset, spec_from_env
from etude.environments.backends.in_process import NO_LIMITS, HostLimits
from etude.environments.backends.jax_envs import JaxEnvs, check_jax_environment
from etude.environments.backends.watchdog import MAX_TIMEOUT, TIMEOUT, time_limit
from etude.environments.backends.zero_envs import ZeroEnvs
from etude.environments.factories import CheckedFactory, is_picklable, name_of_function
from etude.environments.protocol import Environment, JaxEnvironment
from etude.environments.registry import (
    JAX_ENVIRONMENTS,
    Backend,
    choose_backend,
    env_factory,
    explained_creation,
)
from etude.environments.wrappers.action_mask import make_with_action_mask
from etude.environments.wrappers.frame_stack import FrameStack
from etude.environments.wrappers.time_limit import TimeLimit
from etude.errors import EnvironmentFault, InvalidInput
from etude.spaces import EnvironmentSpec
from etude.struct import replace

EnvironmentLike = str | Callable[[], gymnasium.Env] | JaxEnvironment
SourceKind = Literal["id", "factory", "jax"]


class EnvironmentSource(Protocol):
    """Where the environments of a run come from."""

    kind: SourceKind
    name: str  # of the environment, for people: an object cannot be made from it
    evaluation_backend: str  # the backend on which policies are evaluated: jax or gymnasium
    evaluated_on: str  # the same, in words

    @property
    def is_picklable(self) -> bool:
        """Whether another process can have it, to train a seed there."""

    def choose_backend(self, backend: str, workers: int = 0) -> str:
        """Return the backend of training; raises InvalidInput for one that it does not have."""

    def outline(self, num_envs: int, backend: str) -> Environment:
        """Return an environment with the spec and the shapes of `make`, without making copies.

        It is for shapes alone (`ZeroEnvs`), but on JAX. Raises InvalidInput where `make` would.
        """

    def make(
        self,
        num_envs: int,
        backend: str,
        seed: int = 0,
        workers: int = 0,
        limits: HostLimits = NO_LIMITS,
    ) -> Environment:
        """Make a batch of environments within `limits`; their timeout is that of the source.

        Episodes of every kind of environment are truncated; the other limits are of those in
        Python.
        """

    def check_pictures(self, render_mode: str) -> None:
        """Raise InvalidInput where it is known that `make_rendered` has no pictures."""

    def make_rendered(
        self, render_mode: str, max_episode_steps: int | None = None, replay: int = 0
    ) -> Environment:
        """Make one Gymnasium environment that draws itself, on the Gymnasium backend.

        `replay` is that of `HostLimits`.
        """


def make(
    environment: EnvironmentLike,
    num_envs: int = 1,
    backend: Backend = "auto",
    *,
    seed: int = 0,
    workers: int = 0,
    options: dict[str, Any] | None = None,
    frame_stack: int = 1,
    action_masks: bool = False,
    environment_timeout: float = TIMEOUT,
) -> Environment:
    """Make a batch of environments, which is stepped inside a compiled loop.

    Args:
        environment: a Gymnasium id, or module:Name to import the module that registers it; or a
            function (or class) that returns a new `gymnasium.Env` when called without arguments;
            or an object with the protocol `JaxEnvironment`.
        num_envs: number of environments.
        backend: of an id, "auto" takes a JAX port, else EnvPool where it is installed, else
            Gymnasium. A function has the backend gymnasium, an environment written in JAX jax.
        seed: seed of EnvPool; the others take theirs from the key of `reset`.
        workers: processes in which slow environments step; implies Gymnasium.
        options: keyword arguments of `gymnasium.make`; implies an id and Gymnasium.
        frame_stack: number of latest observations that are stacked.
        action_masks: make `info["action_mask"]` part of the observation; implies Gymnasium.
        environment_timeout: seconds that one call of a Gymnasium environment may take; 0: no limit.

    Returns:
        The environments; see `etude.environments.protocol`.

    Raises:
        InvalidInput: for ids, objects, backends and spaces that etude cannot take.
    """
    source = environment_source(
        environment, options, frame_stack, action_masks, environment_timeout
    )
    return source.make(num_envs, backend, seed, workers)


def environment_source(
    environment: EnvironmentLike,
    options: dict[str, Any] | None = None,
    frame_stack: int = 1,
    action_masks: bool = False,
    environment_timeout: float = TIMEOUT,
) -> EnvironmentSource:
    """Return the source of an environment; arguments are those of `make`.

    Raises InvalidInput for what is neither an id, nor a function, nor written in JAX, and for
    options that it cannot have.
    """
    if not 0 <= environment_timeout <= MAX_TIMEOUT:  # not a NaN either
        raise InvalidInput(
            f"environment_timeout is {environment_timeout}; it must be a number of seconds up to "
            f"{MAX_TIMEOUT:,}, or 0 for no limit"
        )
    if isinstance(environment, str):
        return IdSource(environment, options or {}, frame_stack, action_masks, environment_timeout)
    if options:
        raise InvalidInput(
            f"options are {options}; they are those of gymnasium.make, for an environment given by "
            "its id. Pass them to the environment yourself"
        )
    if isinstance(environment, gymnasium.Env | gymnasium.vector.VectorEnv):
        raise InvalidInput(
            f"environment is {environment}, one object, and each copy needs its own; give a "
            "function that makes a new gymnasium.Env at each call, and num_envs for the copies"
        )
    if isinstance(environment, type):
        # a class has the methods of its objects
        if isinstance(environment, JaxEnvironment) and not issubclass(environment, gymnasium.Env):
            raise InvalidInput(
                f"environment is the class {environment.__name__}; an environment written in JAX "
                f"is an object: {environment.__name__}()"
            )
        return FactorySource(environment, frame_stack, action_masks, environment_timeout)
    if isinstance(environment, JaxEnvironment):
        if action_masks:
            raise InvalidInput(
                "action_masks is for the info of Gymnasium; an environment written in JAX shows "
                'its mask in its observation, an etude.spaces.Composite with the name "action_mask"'
            )
        return JaxSource(environment, frame_stack)
    if callable(environment):
        return FactorySource(environment, frame_stack, action_masks, environment_timeout)
    raise InvalidInput(
        f"environment is {environment!r:.80}; give a Gymnasium id, a function that makes a "
        "gymnasium.Env, or an environment written in JAX (etude.environments.protocol)"
    )


class IdSource:
    """Environments with a Gymnasium id, on any backend; policies are evaluated on Gymnasium."""

    kind: SourceKind = "id"
    evaluation_backend = "gymnasium"
    evaluated_on = "Gymnasium"
    is_picklable = True

    def __init__(
        self,
        name: str,
        options: dict[str, Any],
        frame_stack: int,
        action_masks: bool,
        timeout: float,
    ):
        self.name, self.options, self.timeout = name, options, timeout
        self.frame_stack, self.action_masks = frame_stack, action_masks

    def choose_backend(self, backend: str, workers: int = 0) -> str:
        return choose_backend(
            self.name, backend, bool(self.options or workers or self.action_masks)
        )

    def outline(self, num_envs: int, backend: str) -> Environment:
        match self.choose_backend(backend):
            case "jax":
                return self.make(num_envs, backend)
            case "envpool":
                spec = envpool_spec(self._envpool_id(), num_envs, self.spec.goal_reward)
            case _:
                spec = replace(self.spec, num_envs=num_envs)
        counted = self.choose_backend(backend) == "gymnasium"
        return stacked(ZeroEnvs(spec, counted=counted), self.frame_stack)

    def make(
        self,
        num_envs: int,
        backend: str,
        seed: int = 0,
        workers: int = 0,
        limits: HostLimits = NO_LIMITS,
    ) -> Environment:
        chosen_backend = self.choose_backend(backend, workers)
        check_num_envs(num_envs)
        match chosen_backend:
            case "jax":
                port = limited(JAX_ENVIRONMENTS[self.name](), limits)
                environment: Environment = JaxEnvs(port, num_envs, self.name)
            case "envpool":
                environment = EnvPoolEnvs(
                    self._envpool_id(),
                    num_envs,
                    seed,
                    goal_reward=self.spec.goal_reward,
                    max_episode_steps=limits.max_episode_steps,
                )
            case _:
                limits = limits._replace(timeout=self.timeout)
                environment = GymnasiumEnvs(self._factory(), num_envs, workers, self.spec, limits)
        return stacked(environment, self.frame_stack)

    def check_pictures(self, render_mode: str) -> None:
        # Gymnasium opens a window on the pictures of rgb_array, where the environment has none
        modes = self._made.render_modes
        if not {render_mode, "rgb_array"} & {*modes}:
            raise InvalidInput(
                f"{self.name} draws no pictures of the kind {render_mode}: its render_modes are "
                f"{', '.join(modes) or 'none'}"
            )

    def make_rendered(
        self, render_mode: str, max_episode_steps: int | None = None, replay: int = 0
    ) -> Environment:
        limits = HostLimits(max_episode_steps, replay, timeout=self.timeout)
        environment = GymnasiumEnvs(self._factory(render_mode), 1, 0, self.spec, limits)
        return stacked(environment, self.frame_stack)

    @property
    def spec(self) -> EnvironmentSpec:
        """The spec of one Gymnasium environment."""
        return self._made.spec

    @cached_property
    def _made(self) -> "Made":
        """What one environment, which is made and reset, says of itself."""
        make_env = self._factory()
        with explained_creation(self.name, self.options):
            with time_limit(self.timeout, f"making {self.name}"):
                env = make_env()
            with closing_in_time(env, self.timeout, self.name):
                spec = spec_from_env(env, make_env)
                check_reset(env, spec, self.timeout)
                return Made(spec, tuple(env.metadata.get("render_modes") or ()))

    def _envpool_id(self) -> str:
        # Gymnasium's, since EnvPool keeps retired ids, for which no policy can be evaluated
        return self.spec.id

    def _factory(self, render_mode: str | None = None) -> Callable[[], gymnasium.Env]:
        return env_factory(self.name, self.options, render_mode, self.action_masks)


class Made(NamedTuple):
    """What one environment of an id says of itself."""

    spec: EnvironmentSpec
    render_modes: tuple[str, ...]


class Probe(NamedTuple):
    """What one environment, made and closed again, says of all that a function makes."""

    spec: EnvironmentSpec
    render_mode: str | None


class FactorySource:
    """Gymnasium environments that a user's function makes, also for evaluation."""

    kind: SourceKind = "factory"
    evaluation_backend = "gymnasium"
    evaluated_on = "the environment itself"

    def __init__(
        self,
        factory: Callable[[], gymnasium.Env],
        frame_stack: int,
        action_masks: bool,
        timeout: float,
    ):
        self.factory, self.name, self.frame_stack = factory, name_of_function(factory), frame_stack
        self.timeout = timeout
        checked = CheckedFactory(factory)
        self.make_env = partial(make_with_action_mask, checked) if action_masks else checked

    @property
    def is_picklable(self) -> bool:
        return is_picklable(self.factory)

    def choose_backend(self, backend: str, workers: int = 0) -> str:
        if backend not in ("auto", "gymnasium"):
            raise InvalidInput(
                f"backend is {backend!r}; what {self.name} makes is stepped on gymnasium"
            )
        if workers and not self.is_picklable:
            raise InvalidInput(
                f"workers is {workers}, and no other process can have {self.name}; define it with "
                "`def` at the top of a module that a process can import, or leave workers out"
            )
        return "gymnasium"

    def outline(self, num_envs: int, backend: str) -> Environment:
        spec = replace(self.probe.spec, num_envs=num_envs)
        return stacked(ZeroEnvs(spec, counted=True), self.frame_stack)

    def make(
        self,
        num_envs: int,
        backend: str,
        seed: int = 0,
        workers: int = 0,
        limits: HostLimits = NO_LIMITS,
    ) -> Environment:
        self.choose_backend(backend, workers)
        check_num_envs(num_envs)
        limits = limits._replace(timeout=self.timeout)
        environment = GymnasiumEnvs(self.make_env, num_envs, workers, self.probe.spec, limits)
        return stacked(environment, self.frame_stack)

    def check_pictures(self, render_mode: str) -> None:
        if self.probe.render_mode != render_mode:
            raise InvalidInput(
                f"what {self.name} makes has the render_mode {self.probe.render_mode!r}; pictures "
                f"need {render_mode!r}, which the function has to ask for"
            )

    def make_rendered(
        self, render_mode: str, max_episode_steps: int | None = None, replay: int = 0
    ) -> Environment:
        self.check_pictures(render_mode)
        return self.make(1, self.evaluation_backend, limits=HostLimits(max_episode_steps, replay))

    @cached_property
    def probe(self) -> Probe:
        try:
            with time_limit(self.timeout, f"making {self.name}"):
                env = self.make_env()
        except InvalidInput:
            raise
        except EnvironmentFault as fault:  # it takes too long
            raise InvalidInput(str(fault)) from fault
        except (Exception, SystemExit) as error:
            raise InvalidInput(
                f"{self.name}() raises {type(error).__name__}: {error}; it is to make a "
                "gymnasium.Env, without arguments"
            ) from error
        try:
            with closing_in_time(env, self.timeout, self.name):
                spec = spec_from_env(env, self.make_env)
                check_reset(env, spec, self.timeout)
                return Probe(spec, env.render_mode)
        except EnvironmentFault as fault:  # of its first reset
            raise InvalidInput(str(fault)) from fault


class JaxSource:
    """An environment that a user wrote in JAX, also for evaluation."""

    kind: SourceKind = "jax"
    evaluation_backend = "jax"
    evaluated_on = "the environment itself"
    is_picklable = False  # all seeds train in one program

    def __init__(self, environment: JaxEnvironment, frame_stack: int):
        self.environment, self.frame_stack = environment, frame_stack
        self.name = name_of_jax_environment(environment)
        check_jax_environment(environment, self.name)

    def choose_backend(self, backend: str, workers: int = 0) -> str:
        if backend not in ("auto", "jax") or workers:
            asked = f"workers is {workers}" if workers else f"backend is {backend!r}"
            raise InvalidInput(f"{asked}; {self.name} is written in JAX, and stepped on jax alone")
        return "jax"

    def outline(self, num_envs: int, backend: str) -> Environment:
        return self.make(num_envs, backend)

    def make(
        self,
        num_envs: int,
        backend: str,
        seed: int = 0,
        workers: int = 0,
        limits: HostLimits = NO_LIMITS,
    ) -> Environment:
        self.choose_backend(backend, workers)
        check_num_envs(num_envs)
        environment = limited(self.environment, limits)
        return stacked(JaxEnvs(environment, num_envs), self.frame_stack)

    def check_pictures(self, render_mode: str) -> NoReturn:
        raise InvalidInput(f"{self.name} is written in JAX, and draws no pictures")

    def make_rendered(
        self, render_mode: str, max_episode_steps: int | None = None, replay: int = 0
    ) -> NoReturn:
        self.check_pictures(render_mode)


@contextlib.contextmanager
def closing_in_time(env: gymnasium.Env, timeout: float, name: str) -> Iterator[None]:
    """Close an environment after the block, within its time limit."""
    try:
        yield
    finally:
        with time_limit(timeout, f"closing {name}"):
            env.close()


def limited(environment: JaxEnvironment, limits: HostLimits) -> JaxEnvironment:
    """Return the environment with episodes of the length that `limits` allow, if they do."""
    steps = limits.max_episode_steps
    return environment if steps is None else TimeLimit(environment, steps)


def stacked(environment: Environment, frame_stack: int) -> Environment:
    """Return the environment with the latest `frame_stack` observations in place of one."""
    return environment if frame_stack == 1 else FrameStack(environment, frame_stack)


def check_num_envs(num_envs: int) -> None:
    """Raise InvalidInput for fewer than one environment."""
    if num_envs < 1:
        raise InvalidInput(f"num_envs is {num_envs}; it must be at least 1")


def name_of_jax_environment(environment: JaxEnvironment) -> str:
    """The name of its class, or of the class that a time limit wraps."""
    while isinstance(environment, TimeLimit):
        environment = environment.environment
    return type(environment).__name__
