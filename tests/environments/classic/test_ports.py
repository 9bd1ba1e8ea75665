"""The JAX ports against Gymnasium, step by step from the same states.

In float32, as the ports run, a flag may differ from Gymnasium's float64 only within BOUNDARY of the
condition that ends an episode. In float64 the states agree to ten digits and every flag must be
equal.
"""

import math
from functools import cache

import gymnasium
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.stats

from etude.environments.classic import PORTS, CartPole
from etude.environments.wrappers.time_limit import TimeLimitState
from etude.spaces import Box, space_from_gymnasium

BOUNDARY = 1e-5
STEPS = 3000
PI = math.pi

# Gymnasium id: (lowest state, highest state, error allowed to a float32 step)
STATES = {
    "CartPole-v1": ([-2.5, -3, -0.25, -3], [2.5, 3, 0.25, 3], 5e-7),
    "Pendulum-v1": ([-20, -8], [20, 8], 5e-6),
    "Acrobot-v1": ([-PI, -PI, -4 * PI, -9 * PI], [PI, PI, 4 * PI, 9 * PI], 1e-3),
    "MountainCar-v0": ([-1.2, -0.07], [0.6, 0.07], 5e-7),
    "MountainCarContinuous-v0": ([-1.2, -0.07], [0.6, 0.07], 5e-7),
    "etude/CartPoleContinuous-v0": ([-2.5, -3, -0.25, -3], [2.5, 3, 0.25, 3], 5e-7),
}

# other physics than the default, where ones hide mistakes: (attributes in Gymnasium, parameters of
# the port)
CART_POLE = dict(
    gravity=8.0,
    masscart=1.3,
    masspole=0.25,
    total_mass=1.55,
    length=0.7,
    polemass_length=0.175,
    tau=0.03,
)
CART_POLE_PORT = dict(
    gravity=8.0, cart_mass=1.3, pole_mass=0.25, half_length=0.7, push=7.0, time_step=0.03
)
PHYSICS = {
    "CartPole-v1": (dict(CART_POLE, force_mag=7.0), CART_POLE_PORT),
    "etude/CartPoleContinuous-v0": (dict(CART_POLE, push=7.0), CART_POLE_PORT),
    "Pendulum-v1": (
        dict(g=9.0, m=1.5, l=0.8, dt=0.04),
        dict(gravity=9.0, mass=1.5, length=0.8, time_step=0.04),
    ),
    "Acrobot-v1": (
        dict(
            LINK_LENGTH_1=1.2,
            LINK_MASS_1=0.8,
            LINK_MASS_2=1.3,
            LINK_COM_POS_1=0.4,
            LINK_COM_POS_2=0.6,
            LINK_MOI=1.1,
            AVAIL_TORQUE=[-2.0, 0.0, 2.0],
            dt=0.1,
        ),
        dict(
            length=1.2,
            mass_1=0.8,
            mass_2=1.3,
            center_1=0.4,
            center_2=0.6,
            inertia=1.1,
            torque=2.0,
            time_step=0.1,
        ),
    ),
    "MountainCar-v0": (
        dict(force=0.0012, gravity=0.003, goal_velocity=0.01),
        dict(power=0.0012, gravity=0.003, goal_velocity=0.01),
    ),
    "MountainCarContinuous-v0": (
        dict(power=0.002, goal_velocity=0.02),
        dict(power=0.002, goal_velocity=0.02),
    ),
}

every_port = pytest.mark.parametrize("name", PORTS)


def margin(name, state):
    """How far a state [step, state] is inside (above 0) or outside the condition that
    terminates."""
    match name:
        case "CartPole-v1" | "etude/CartPoleContinuous-v0":
            return np.maximum(np.abs(state[:, 0]) - 2.4, np.abs(state[:, 2]) - math.radians(12))
        case "Acrobot-v1":
            return -np.cos(state[:, 0]) - np.cos(state[:, 0] + state[:, 1]) - 1
        case "MountainCar-v0" | "MountainCarContinuous-v0":
            return np.minimum(
                state[:, 0] - (0.5 if name == "MountainCar-v0" else 0.45), state[:, 1]
            )
    return np.full(len(state), -np.inf)


def state_precision(name):
    """How far apart float64 states may be: MountainCarContinuous keeps its own in float32."""
    return 1e-7 if name == "MountainCarContinuous-v0" else 1e-10


def random_pairs(name, count, seed=0):
    """States [count, state] and actions, continuous ones also from outside their bounds, that
    float32 holds exactly."""
    rng = np.random.default_rng(seed)
    low, high = STATES[name][:2]
    states = rng.uniform(low, high, (count, len(low))).astype(np.float32)
    space = PORTS[name]().action_space
    if isinstance(space, Box):
        return states, rng.uniform(1.5 * space.low, 1.5 * space.high, (count, *space.shape)).astype(
            np.float32
        )
    return states, rng.integers(space.n, size=count)


def gymnasium_steps(env, states, actions):
    """(next state, next observation, reward, terminated) of a step from each state, in float64."""
    env.reset(seed=0)
    rows = []
    for state, action in zip(states, actions, strict=True):
        env.state = np.asarray(state, np.float64)
        env.steps_beyond_terminated = None
        observation, reward, terminated, truncated, _ = env.step(action)
        assert not truncated
        rows.append((np.array(env.state, float), observation, reward, terminated))
    return [np.array(column) for column in zip(*rows, strict=True)]


@cache
def compiled(name, limited):
    port = PORTS[name]() if limited else PORTS[name]().environment
    return jax.jit(jax.vmap(lambda state, action: port.step(state, action, jax.random.key(0))))


def port_steps(step, states, actions):
    """`step` of STEPS states, one program for all, of which those that were asked for are told."""
    count = len(actions)
    repeated = jax.tree.map(lambda x: np.resize(x, (STEPS, *np.shape(x)[1:])), (states, actions))
    return jax.tree.map(lambda x: np.asarray(x)[:count], step(*repeated))


@every_port
def test_spaces_and_limit_are_those_of_gymnasium(name):
    env, port = gymnasium.make(name), PORTS[name]()
    assert port.observation_space == space_from_gymnasium(env.observation_space)
    assert port.action_space == space_from_gymnasium(env.action_space, "action")
    assert port.limit == env.spec.max_episode_steps


@every_port
def test_steps_are_those_of_gymnasium(name):
    states, actions = random_pairs(name, STEPS)
    state, observation, reward, terminated = gymnasium_steps(
        gymnasium.make(name).unwrapped, states, actions
    )
    _, outcome = port_steps(compiled(name, False), states, actions)
    tolerance = STATES[name][2]
    np.testing.assert_allclose(
        outcome.next_observation, observation, rtol=tolerance, atol=tolerance
    )

    # the margin itself is right
    np.testing.assert_array_equal(terminated, margin(name, state) >= 0)
    decided = np.abs(margin(name, state)) > BOUNDARY
    assert decided.mean() > 0.99
    np.testing.assert_array_equal(outcome.terminated[decided], terminated[decided])
    np.testing.assert_allclose(outcome.reward[decided], reward[decided], rtol=1e-5, atol=1e-5)
    assert not outcome.truncated.any()
    assert name == "Pendulum-v1" or 10 < terminated.sum() < STEPS - 10


@every_port
def test_physics_are_those_of_gymnasium(name):
    attributes, parameters = PHYSICS[name]
    env = gymnasium.make(name).unwrapped
    for attribute, value in attributes.items():
        assert hasattr(env, attribute)
        setattr(env, attribute, value)
    states, actions = random_pairs(name, STEPS)
    states = states.astype(float)
    actions = actions.astype(float) if actions.dtype == np.float32 else actions
    state, _, reward, terminated = gymnasium_steps(env, states, actions)
    with jax.enable_x64(True):
        port = PORTS[name](**parameters).environment
        step = jax.jit(jax.vmap(lambda state, action: port.step(state, action, jax.random.key(0))))
        new, outcome = port_steps(step, states, actions)
    tolerance = state_precision(name)
    np.testing.assert_allclose(new, state, rtol=tolerance, atol=tolerance)
    np.testing.assert_array_equal(outcome.terminated, terminated)
    np.testing.assert_allclose(outcome.reward, reward, rtol=1e-6)


@pytest.mark.parametrize("name", ["MountainCar-v0", "MountainCarContinuous-v0"])
def test_the_left_wall_stops_the_car_and_the_right_one_does_not(name):
    states = np.float32([[-1.2, -0.05], [-1.19, -0.07], [-1.2, 0], [0.6, 0.07], [0.55, 0.07]])
    env = gymnasium.make(name).unwrapped
    actions = np.array([0] * 5) if name == "MountainCar-v0" else np.full((5, 1), -1, np.float32)
    gym_state, *_ = gymnasium_steps(env, states, actions)
    new, _ = port_steps(compiled(name, False), states, actions)
    np.testing.assert_allclose(new, gym_state, atol=1e-7)
    assert (
        (new[:2, 1] == 0).all()
        and (new[3:, 0] == np.float32(0.6)).all()
        and (new[3:, 1] > 0.06).all()
    )


def pump(name):
    """Push the way it moves."""
    if name == "MountainCarContinuous-v0":
        return lambda state, rng: np.array([1.0 if state[1] >= 0 else -1.0])
    rate = 2 if name == "Acrobot-v1" else 1
    return lambda state, rng: (
        (2 if state[rate] <= 0 else 0) if name == "Acrobot-v1" else (2 if state[rate] >= 0 else 0)
    )


def chance(name):
    space = gymnasium.make(name).action_space
    if isinstance(space, gymnasium.spaces.Box):
        return lambda state, rng: rng.uniform(space.low, space.high)
    return lambda state, rng: rng.integers(space.n)


def balance(name):
    return lambda state, rng: int(state @ [0.1, 0.3, 1.0, 0.5] > 0)


@pytest.mark.slow
@pytest.mark.parametrize(
    "name, policy, end",
    [
        ("CartPole-v1", chance, "terminated"),
        ("CartPole-v1", balance, "truncated"),
        ("Pendulum-v1", chance, "truncated"),
        ("Acrobot-v1", chance, "either"),
        ("Acrobot-v1", pump, "terminated"),
        ("MountainCar-v0", chance, "truncated"),
        ("MountainCar-v0", pump, "terminated"),
        ("MountainCarContinuous-v0", chance, "truncated"),
        ("MountainCarContinuous-v0", pump, "terminated"),
    ],
)
def test_whole_episodes_are_those_of_gymnasium(name, policy, end):
    """From every state of an episode, since errors add up in the open loop of an unstable
    system."""
    env, choose = gymnasium.make(name, disable_env_checker=True), policy(name)
    before, after, times, rows = [], [], [], []
    for seed in range(3):
        rng = np.random.default_rng(seed)
        env.reset(seed=seed)
        done = False
        times.append(0)
        while not done:
            before.append(np.array(env.unwrapped.state, float))
            action = choose(before[-1], rng)
            _, *row, _ = env.step(action)
            after.append(np.array(env.unwrapped.state, float))
            rows.append((action, *row))
            times.append(times[-1] + 1)
            done = rows[-1][2] or rows[-1][3]
        times.pop()
        assert end == "either" or rows[-1][2 if end == "terminated" else 3]
    actions, rewards, terminated, truncated = (
        np.array(column) for column in zip(*rows, strict=True)
    )
    with jax.enable_x64(True):
        timed, outcome = port_steps(
            compiled(name, True), TimeLimitState(np.array(before), np.array(times)), actions
        )
    np.testing.assert_array_equal(outcome.terminated, terminated)
    np.testing.assert_array_equal(outcome.truncated, truncated)
    tolerance = state_precision(name)
    np.testing.assert_allclose(timed.state, after, rtol=tolerance, atol=tolerance)
    np.testing.assert_allclose(outcome.reward, rewards, rtol=1e-6)


@pytest.mark.slow
@every_port
def test_first_states_are_distributed_as_in_gymnasium(name):
    env, port = gymnasium.make(name).unwrapped, PORTS[name]()
    env.reset(seed=0)
    theirs = np.array([(env.reset(), env.state)[1] for _ in range(4000)], float)
    timed, observation = jax.jit(jax.vmap(port.reset))(jax.random.split(jax.random.key(0), 4000))
    ours = np.asarray(timed.state)
    assert ours.dtype == np.float32 and observation.dtype == np.float32
    assert (timed.time == 0).all()
    for mine, reference in zip(ours.T, theirs.T, strict=True):
        bound = np.abs(reference).max() * 1.01
        assert (np.abs(mine) <= bound).all()
        spread = reference.std()
        np.testing.assert_allclose(
            mine.mean(), reference.mean(), atol=5 * spread * math.sqrt(2 / 4000) + 1e-12
        )
        np.testing.assert_allclose(mine.std(), spread, rtol=0.05)
        assert spread == 0 or scipy.stats.ks_2samp(mine, reference).pvalue > 1e-3
    low, high = port.observation_space.bounds
    assert (observation >= low).all() and (observation <= high).all()


@pytest.mark.slow
@every_port
def test_dynamics_are_what_a_step_does_and_differentiable(name):
    """Jacobians in float64 against central differences, and `dynamics` from the state equals
    `step`'s state."""
    states, _ = random_pairs(name, 50, seed=1)
    port = PORTS[name]().environment
    h = 1e-6
    with jax.enable_x64(True):
        states = np.float64(states)
        controls = np.random.default_rng(2).uniform(-1, 1, (50, 1))
        jacobians, reverse = jax.tree.map(
            np.asarray,
            jax.jit(
                jax.vmap(
                    lambda x, u: (
                        jax.jacfwd(port.dynamics, (0, 1))(x, u),
                        jax.jacrev(port.dynamics, (0, 1))(x, u),
                    )
                )
            )(states, controls),
        )
        compiled_step = jax.jit(jax.vmap(port.dynamics))
        step = lambda *inputs: np.asarray(compiled_step(*inputs))
        for i in range(states.shape[1]):
            nudge = h * np.eye(states.shape[1])[i]
            expected = (step(states + nudge, controls) - step(states - nudge, controls)) / (2 * h)
            np.testing.assert_allclose(jacobians[0][:, :, i], expected, rtol=1e-5, atol=1e-6)
        expected = (step(states, controls + h) - step(states, controls - h)) / (2 * h)
        np.testing.assert_allclose(jacobians[1][:, :, 0], expected, rtol=1e-5, atol=1e-6)
        assert np.abs(jacobians[1]).max() > 0
        for forward, backward in zip(jacobians, reverse, strict=True):
            np.testing.assert_allclose(forward, backward, rtol=1e-9, atol=1e-12)


@every_port
def test_control_is_the_action_in_physical_units(name):
    states, actions = random_pairs(name, 50, seed=3)
    port = PORTS[name]().environment
    controls = {
        "CartPole-v1": lambda a: np.where(a == 1, 10.0, -10.0)[:, None],
        "Pendulum-v1": lambda a: a.clip(-2, 2),
        "MountainCarContinuous-v0": lambda a: a.clip(-1, 1),
        "etude/CartPoleContinuous-v0": lambda a: 10 * a,
    }.get(name, lambda a: a[:, None] - 1)(actions).astype(np.float32)
    new, outcome = port_steps(compiled(name, False), states, actions)
    np.testing.assert_allclose(
        new, jax.jit(jax.vmap(port.dynamics))(states, controls), rtol=1e-5, atol=1e-6
    )
    observe = jax.jit(jax.vmap(port.observe)) if hasattr(port, "observe") else lambda state: state
    np.testing.assert_allclose(outcome.next_observation, observe(new), rtol=1e-5, atol=1e-6)


@every_port
@pytest.mark.parametrize("x64", [False, True])
def test_values_are_float32_even_where_x64_is_enabled(name, x64):
    with jax.enable_x64(x64):
        port = PORTS[name]()
        timed, observation = jax.eval_shape(port.reset, jax.random.key(0))
        new, outcome = jax.eval_shape(
            lambda: port.step(
                port.reset(jax.random.key(0))[0], port.action_space.zeros(), jax.random.key(1)
            )
        )
        assert timed.state.dtype == new.state.dtype == observation.dtype == jnp.float32
        assert outcome.next_observation.dtype == outcome.reward.dtype == jnp.float32
        assert outcome.terminated.dtype == outcome.truncated.dtype == bool
        assert outcome.reward.shape == outcome.terminated.shape == outcome.truncated.shape == ()


@pytest.mark.slow
def test_physics_can_be_swept_in_one_program():
    state, control = jnp.float32([0.1, -0.2, 0.05, 0.3]), jnp.float32([4.0])
    gravities = jnp.float32([1.6, 9.8, 24.8])
    swept = jax.jit(jax.vmap(lambda gravity: CartPole(gravity=gravity).dynamics(state, control)))(
        gravities
    )
    alone = [
        jax.jit(CartPole(gravity=float(gravity)).dynamics)(state, control) for gravity in gravities
    ]
    np.testing.assert_allclose(swept, alone, rtol=1e-6)
    assert len(np.unique(swept[:, 3])) == 3
