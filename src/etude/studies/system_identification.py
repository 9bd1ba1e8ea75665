"""Known equations against a network: what steps tell of a system's constants, and how far ahead.

Three models are fitted to the same noisy steps of a pendulum: its own equations, those for small
angles (θ in place of sin θ), a wrong structure, and a network. The right structure needs few
steps. The wrong one never finds the motion. The network is right about the next step, and its error
grows with the steps ahead.

The constants are told as far as the motion tells them: of the pendulum g/l and m l², of a cart-pole
under known forces both masses, the length and gravity. Guesses are 1.6 to 2 times off, or as much
below.
"""

from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from etude.environments.classic.pendulum import Pendulum
from etude.errors import InvalidInput
from etude.models.ensemble import Ensemble
from etude.models.known_functions import KnownFunctions
from etude.models.model_rows import ModelRows
from etude.models.physics import Physics
from etude.models.standardization import standardization_of
from etude.models.structures import Structure, built_in_structure, register_structure
from etude.models.true_models import SWING_UP
from etude.reporting import planning_figures, statistics
from etude.spaces import EnvironmentSpec
from etude.struct import replace, struct
from etude.studies.measurement import begin_or_go_on, save
from etude.types import Array

PENDULUM = "Pendulum-v1"
GUESS_FACTORS = (1.6, 0.6, 1.7, 0.5)  # of the guessed constants, in the order of the structure's
NOISE = 0.001  # standard deviation of the noise of an observation, of its column's spread
HELD, EPISODE = 5, 50  # steps of a push, and of an episode
STEPS_AHEAD = (1, 2, 4, 8, 16, 32)
JUDGED_STEPS, OTHERS = 500, 200  # steps that models are fitted to; episodes they are judged on
NETWORK = Ensemble(members=1, elites=1, hidden=(64, 64), gradient_steps=2_000)
# the products of constants that the motion tells, as exponents of the structure's constants
TOLD: dict[str, dict[str, tuple[int, ...]]] = {
    PENDULUM: {"g / l": (1, 0, -1), "m l²": (0, 1, 2)},
    SWING_UP: {
        "gravity": (1, 0, 0, 0),
        "cart mass": (0, 1, 0, 0),
        "pole mass": (0, 0, 1, 0),
        "half length": (0, 0, 0, 1),
    },
}


@struct
class SmallAnglePendulum(Pendulum):
    """The pendulum by the equations for small angles: θ̈ = 3 g / (2 l) θ + 3 τ / (m l²)."""

    def dynamics(self, state: Array, control: Array) -> Array:
        """The next state [2] under a torque `control` [1] (N m)."""
        angle = (state[0] + jnp.pi) % (2 * jnp.pi) - jnp.pi
        push = 3 * control[0] / (self.mass * self.length**2)
        acceleration = 1.5 * self.gravity / self.length * angle + push
        rate = jnp.clip(state[1] + self.time_step * acceleration, -self.max_rate, self.max_rate)
        return jnp.stack([state[0] + self.time_step * rate, rate])


def measure_system_identification(
    steps: Sequence[int] = (50, 100, 200, 500, 1_000), seeds: int = 5, out: str | Path | None = None
) -> tuple[Path, dict[str, Any]]:
    """Fit equations and a network to noisy steps, and draw the constants and the errors ahead.

    Writes system_identification.json and .png into the directory `out`. Where it has a measurement,
    the numbers of steps that are missing are added, and it is drawn again.

    Args:
        steps: environment steps that are fitted.
        seeds: of the steps, their noise, and the fits.
        out: the directory; by default runs/system_identification.

    Returns:
        The directory and the content of the file:

            constants    by environment, product of constants and number of steps, as of
                         `statistics.summarize_returns`: its error relative to the truth
            errors       by model and steps ahead: the root mean squared error in units of the
                         states' spread

    Raises:
        InvalidInput: for arguments that cannot be measured, and a directory with a measurement with
            other settings.
    """
    if not steps or min(steps) < 20:
        raise InvalidInput(f"steps is {tuple(steps)}; give numbers from 20 on")
    if seeds < 2:
        raise InvalidInput(f"seeds is {seeds}; give at least 2")
    directory = Path(out or "runs/system_identification")
    path = directory / "system_identification.json"
    measured = begin_or_go_on(path, {"seeds": seeds}, {"constants": {}, "errors": {}})
    directory.mkdir(parents=True, exist_ok=True)
    for environment in TOLD:
        found = measured["constants"].setdefault(environment, {})
        for count in steps:
            if any(str(count) in curve for curve in found.values()):
                continue
            for product, errors in constant_errors(environment, count, seeds).items():
                found.setdefault(product, {})[str(count)] = summary(errors)
            save(path, measured)
    for name, kind in models_of_pendulum().items():
        if name not in measured["errors"]:
            errors = errors_ahead(kind, JUDGED_STEPS, seeds)
            measured["errors"][name] = {str(k): summary(errors[:, k - 1]) for k in STEPS_AHEAD}
            save(path, measured)
    planning_figures.draw_system_identification(
        directory / "system_identification.png",
        measured,
        STEPS_AHEAD,
        title="Equations with fitted constants, and a network",
        subtitle=f"noise of {NOISE:.1%} of each column's spread: IQM of {seeds} seeds",
    )
    return directory, measured


def summary(values: Array) -> dict[str, Any]:
    """The interquartile mean over seeds with its interval, of values [seed]."""
    return statistics.summarize_returns(np.asarray(values, float)[:, None].tolist())


def models_of_pendulum() -> dict[str, Any]:
    """The models that are compared, by the name of their curve."""
    right = guessed(built_in_structure(PENDULUM))
    small = SmallAnglePendulum(**{name: getattr(right.port, name) for name in right.constants})
    for name, port in (("pendulum", right.port), ("small-angle-pendulum", small)):
        register_structure(name, port, right.constants, right.state_from_observation)
    return {
        "right equations": Physics(structure="pendulum"),
        "equations for small angles": Physics(structure="small-angle-pendulum"),
        "a network": NETWORK,
    }


def guessed(structure: Structure) -> Structure:
    """The structure with constants that are off by GUESS_FACTORS."""
    factors = zip(structure.constants, GUESS_FACTORS, strict=False)
    off = {name: factor * getattr(structure.port, name) for name, factor in factors}
    return replace(structure, port=replace(structure.port, **off))


def spec_of(structure: Structure, environment: str) -> EnvironmentSpec:
    """The specification of an environment with the structure's spaces."""
    port = structure.port
    return EnvironmentSpec(port.observation_space, port.action_space, id=environment)


@partial(jax.jit, static_argnums=(0, 2))
def play_pushes(structure: Structure, key: Array, episodes: int) -> tuple[Array, Array, Array]:
    """(observations, actions, next observations) [episode, time, ...] under full pushes.

    A push, to either side, is held for HELD steps, which moves a system more than white noise.
    """

    def play_one(key):
        key_reset, key_push = jax.random.split(key)
        pushes = jax.random.rademacher(key_push, (EPISODE // HELD, 1), jnp.float32)

        def step(state, action):
            after, _ = structure.step(structure.guess, state, action)
            return after, (structure.observe(state), action, structure.observe(after))

        state, _ = structure.port.reset(key_reset)
        return jax.lax.scan(step, state, jnp.repeat(pushes, HELD, 0))[1]

    return jax.vmap(play_one)(jax.random.split(key, episodes))


def noisy_rows(structure: Structure, key: Array, count: int) -> ModelRows:
    """`count` steps, whose observations before and after have noise of their own."""
    key_play, key_before, key_after = jax.random.split(key, 3)
    played = play_pushes(structure, key_play, -(-count // EPISODE))
    before, action, after = (x.reshape(-1, x.shape[-1])[:count] for x in played)
    valid = jnp.ones(count, bool)
    std = NOISE * standardization_of(before, valid).std
    return ModelRows(
        before + std * jax.random.normal(key_before, before.shape),
        action,
        jnp.zeros(count),
        after + std * jax.random.normal(key_after, after.shape),
        jnp.zeros(count, bool),
        jnp.arange(count, dtype=jnp.int32),
        valid,
    )


def constant_errors(environment: str, count: int, seeds: int) -> dict[str, Array]:
    """|found / true − 1| of each product of constants that the motion tells, [seed]."""
    structure = built_in_structure(environment)
    guess = guessed(structure)
    name = f"guess of {environment}"
    register_structure(name, guess.port, guess.constants, guess.state_from_observation)
    kind, spec = Physics(structure=name), spec_of(structure, environment)

    def fit(key):
        key_rows, key_init, key_fit = jax.random.split(key, 3)
        state = kind.init(key_init, spec, KnownFunctions())
        state, _ = kind.fit(state, noisy_rows(structure, key_rows, count), key_fit)
        return state.log_constants - jnp.log(structure.guess)

    off = jax.jit(jax.vmap(fit))(seed_keys(seeds))  # [seed, constant]
    return {
        product: jnp.abs(jnp.expm1(off @ jnp.float32(exponents)))
        for product, exponents in TOLD[environment].items()
    }


def errors_ahead(kind: Any, count: int, seeds: int) -> Array:
    """The error of a model of the pendulum by steps ahead on other episodes, [seed, step]."""
    structure = built_in_structure(PENDULUM)
    spec = spec_of(structure, PENDULUM)

    def measure(key):
        key_rows, key_init, key_fit, key_others, key_model = jax.random.split(key, 5)
        state = kind.init(key_init, spec, KnownFunctions())
        state, _ = kind.fit(state, noisy_rows(structure, key_rows, count), key_fit)
        model = kind.planning_model(state, key_model, "mean", ends=False)
        observations, actions, after = play_pushes(structure, key_others, OTHERS)
        spread = after.reshape(-1, after.shape[-1]).std(0)

        def step(state, inputs):
            action, observed = inputs
            state = model.step(state, action[:, None], key_model).state
            error = (model.observe(state)[:, 0] - observed) / spread
            return state, jnp.sqrt((error**2).mean())

        start = model.begin(observations[:, :1], (), key_model)
        ahead = (jnp.moveaxis(x, 1, 0)[: max(STEPS_AHEAD)] for x in (actions, after))
        return jax.lax.scan(step, start, tuple(ahead))[1]

    return jax.jit(jax.vmap(measure))(seed_keys(seeds))


def seed_keys(seeds: int) -> Array:
    """A key for each seed, [seed]."""
    return jax.vmap(jax.random.key)(jnp.arange(seeds))
