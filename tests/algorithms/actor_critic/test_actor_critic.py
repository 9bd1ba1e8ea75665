"""Actor-critic: advantages, targets and weights against loops, its control variate by enumeration,
and what it learns."""

from functools import partial

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from filling import filled

from etude.algorithms.actor_critic.actor_critic import A2C, ActorCritic
from etude.algorithms.actor_critic.control_variate import make_control_variate
from etude.algorithms.common.on_policy import LearnerState, RolloutBatch
from etude.data.transition import Transition
from etude.environments import probes
from etude.environments.backends.jax_envs import JaxEnvs
from etude.errors import InvalidInput
from etude.estimators import running_statistics
from etude.nn.networks import make_torso
from etude.nn.policies import ActorCriticNetworks, PolicyNetwork, ValueNetwork
from etude.rollout import bind_policy, rollout
from etude.spaces import Box, Discrete, EnvironmentSpec, MultiBinary
from etude.struct import replace, validate
from etude.training import init_rollout

KEY = jax.random.key(0)
OBSERVATION, FOUR = Box((3,)), Discrete(4)
TIME, ENVS = 8, 3
PLAIN = ActorCritic(
    hidden=(),
    rollout_length=TIME,
    learning_rate=0.01,
    value_learning_rate=0.02,
    discount=0.9,
    gae_lambda=0.8,
    max_gradient_norm=np.inf,
    value_coefficient=0.0,
)
no_steps = np.int32(0)


def fresh(algorithm, space=FOUR, seed=0):
    """The learner before the first step; policy and value are linear."""
    outputs = space.n if isinstance(space, Discrete) else 2
    log_std = jnp.linspace(-0.5, 0.2, outputs) if isinstance(space, Box) else jnp.zeros(0)
    agent = ActorCriticNetworks(
        PolicyNetwork(
            *filled(lambda: make_torso(KEY, OBSERVATION, (), outputs), seed, 0.5),
            log_std,
            space,
            OBSERVATION,
        ),
        ValueNetwork(*filled(lambda: make_torso(KEY, OBSERVATION, (), 1), seed + 1, 0.5)),
    )
    optimizer = (
        algorithm.optimizer(no_steps).init(agent),
        algorithm.value_optimizer().init(agent.value),
    )
    return LearnerState(
        agent,
        optimizer,
        running_statistics.init_observation_statistics(OBSERVATION),
        running_statistics.init_statistics(()),
        jnp.zeros(ENVS),
        no_steps,
    )


def random_experience(seed=0):
    """Experience [time, env] of four choices."""
    rng = np.random.default_rng(seed)
    observation, after = rng.normal(1, 2, size=(2, TIME, ENVS, 3)).astype(np.float32)
    ends = rng.random((2, TIME, ENVS)) < 0.15
    reward = rng.normal(3, 2, (TIME, ENVS)).astype(np.float32)
    return Transition(observation, rng.integers(0, 4, (TIME, ENVS)), reward, after, *ends)


def values_of(head, x):
    """In float64."""
    return np.asarray(x, float) @ np.asarray(head.weight, float)[0] + float(head.bias[0])


def slow_returns(life, value, after, discount, decay):
    """λ-returns [time, env], by loops: 1 is Monte Carlo, 0 one step."""
    returns = np.zeros((TIME, ENVS))
    for env in range(ENVS):
        for t in reversed(range(TIME)):
            later = 0.0 if life.terminated[t, env] else after[t, env]
            if t < TIME - 1 and not life.done[t, env]:
                later = (1 - decay) * after[t, env] + decay * (
                    returns[t + 1, env] - value[t + 1, env] + after[t, env]
                )
            returns[t, env] = life.reward[t, env] + discount * later
    return returns


def n_step_sums(life, after, discount, n=10**6):
    """Sums of at most n rewards, and then the value of where that led."""
    sums = np.zeros((TIME, ENVS))
    for t, env in np.ndindex(TIME, ENVS):
        for k in range(n):
            sums[t, env] += discount**k * life.reward[t + k, env]
            if life.done[t + k, env] or t + k == TIME - 1 or k == n - 1:
                sums[t, env] += (
                    discount ** (k + 1) * (not life.terminated[t + k, env]) * after[t + k, env]
                )
                break
    return sums


@pytest.mark.parametrize(
    "advantage, value_target",
    [("gae", "same"), ("n_step", "same"), ("gae", "monte_carlo"), ("n_step", "one_step")],
)
def test_advantages_and_targets_are_those_of_loops(advantage, value_target):
    algorithm, life = (
        replace(PLAIN, advantage=advantage, value_target=value_target, n_step=3),
        random_experience(),
    )
    assert life.terminated.any() and (life.truncated & ~life.terminated).any()
    learner = fresh(algorithm)
    batch = jax.jit(ActorCritic.compute_advantages)(algorithm, learner, life)
    value, after = (
        values_of(learner.networks.value.head, x) for x in (life.observation, life.next_observation)
    )
    returns = (
        n_step_sums(life, after, 0.9, 3)
        if advantage == "n_step"
        else slow_returns(life, value, after, 0.9, 0.8)
    )
    targets = {
        "same": returns,
        "monte_carlo": n_step_sums(life, after, 0.9),
        "one_step": n_step_sums(life, after, 0.9, 1),
    }
    np.testing.assert_allclose(batch.old_value, value, rtol=1e-4, atol=1e-4)
    np.testing.assert_allclose(batch.advantage, returns - value, rtol=1e-4, atol=1e-4)
    np.testing.assert_allclose(batch.value_target, targets[value_target], rtol=1e-4, atol=1e-4)


def test_steps_weigh_by_their_age_in_the_episode():
    """The probe's observation is the step's number; an episode goes on from one rollout to the
    next."""
    algorithm = replace(PLAIN, discount_from="start", rollout_length=5)
    environment = JaxEnvs(probes.Counter(4), 2)

    @jax.jit
    def live(key):
        state = algorithm.init(key, environment.spec)
        stage, stretches = init_rollout(algorithm, environment, state, key), []
        for _ in range(2):
            stage, stretch, _ = rollout(
                environment, bind_policy(algorithm, state, environment, explore=True), stage, key, 5
            )
            alike = replace(algorithm, discount_from="now").discount_weights(stretch)
            stretches.append(
                (stretch.observation[..., 0], algorithm.discount_weights(stretch), alike)
            )
        return stretches

    for number, weight, alike in live(KEY):
        np.testing.assert_allclose(weight, 0.9**number, rtol=1e-5)
        np.testing.assert_array_equal(alike, 1)
    np.testing.assert_array_equal(number[:, 0], [1, 2, 3, 0, 1])


@jax.jit
def improve(algorithm, learner, batch, weight, variate=(), key=KEY):
    return algorithm.gradient_step(learner, batch, weight, variate, key)[0]


def test_the_step_is_rmsprop_with_epsilon_outside_the_root():
    """θ ← θ - rate g / (√(0.01 g²) + ε), along E[w A ∇log π]; so for gradients of every size."""
    algorithm = replace(PLAIN, optimizer_name="rmsprop")
    learner, life = fresh(algorithm), random_experience()
    rng = np.random.default_rng(5)
    advantage, weight = rng.normal(size=(2, TIME, ENVS)).astype(np.float32)
    for scale in (1.0, 1e-3, 1e-5):
        batch = RolloutBatch(
            life.observation, life.action, None, None, scale * advantage, advantage, ()
        )
        after = improve(algorithm, learner, batch, weight).networks.policy.head
        before = learner.networks.policy.head
        logits = life.observation.astype(float) @ np.asarray(before.weight, float).T + np.asarray(
            before.bias, float
        )
        p = np.exp(logits) / np.exp(logits).sum(-1, keepdims=True)
        along = (
            -(scale * weight * advantage)[..., None] * (np.eye(4)[life.action] - p) / advantage.size
        )
        for ours, old, g in (
            (after.weight, before.weight, np.einsum("tea,teo->ao", along, life.observation)),
            (after.bias, before.bias, along.sum((0, 1))),
        ):
            np.testing.assert_allclose(
                ours - old, -0.01 * g / (0.1 * abs(g) + 1e-5), rtol=5e-3, atol=2e-7
            )


def test_a2c_has_the_settings_of_stable_baselines():
    a2c = A2C()
    validate(a2c)
    assert (a2c.learning_rate, a2c.rollout_length, a2c.gae_lambda, a2c.optimizer_name) == (
        7e-4,
        5,
        1.0,
        "rmsprop",
    )
    assert (
        a2c.discount,
        a2c.value_coefficient,
        a2c.entropy_coefficient,
        a2c.max_gradient_norm,
    ) == (0.99, 0.5, 0.0, 0.5)
    assert not a2c.normalize_advantage and A2C(rollout_length=8).rollout_length == 8


def test_steps_of_the_value_bootstrap_from_its_latest_weights():
    """Three steps of Adam on ½ (target - V)², in NumPy."""
    algorithm, life = replace(PLAIN, value_steps=3, value_target="one_step"), random_experience()
    learner = fresh(algorithm)
    ours = jax.jit(ActorCritic.fit_value)(algorithm, learner, life)
    head = learner.networks.value.head
    w, x, x_after = (
        np.concatenate([np.asarray(a, float), np.ones((*np.shape(a)[:-1], 1))], -1)
        for a in (head.weight[0], life.observation, life.next_observation)
    )
    w[-1] = head.bias[0]
    first, second = np.zeros(4), np.zeros(4)
    for i in range(1, 4):
        target = life.reward + 0.9 * ~life.terminated * (x_after @ w)
        gradient = -((target - x @ w)[..., None] * x).mean((0, 1))
        first, second = 0.9 * first + 0.1 * gradient, 0.999 * second + 0.001 * gradient**2
        w = w - 0.02 * (first / (1 - 0.9**i)) / (np.sqrt(second / (1 - 0.999**i)) + 1e-8)
    np.testing.assert_allclose(
        [*ours.networks.value.head.weight[0], ours.networks.value.head.bias[0]],
        w,
        rtol=1e-4,
        atol=1e-5,
    )
    jax.tree.map(np.testing.assert_array_equal, ours.networks.policy, learner.networks.policy)


# The control variate.

SEEN_STATE = np.float32([0.5, -1, 2])


def variate_of(space, weight, bias):
    """Q of one layer."""
    made = jax.eval_shape(
        lambda: make_control_variate(
            KEY, EnvironmentSpec(OBSERVATION, space, 1), (), "tanh", PLAIN.value_optimizer()
        )
    )
    made = jax.tree.map(lambda x: np.zeros(x.shape, x.dtype), made)
    last = lambda made: (made.critic.head.layers[-1].weight, made.critic.head.layers[-1].bias)
    return eqx.tree_at(last, made, (jnp.float32(weight), jnp.float32(bias)))


@jax.jit
@partial(jax.vmap, in_axes=(None, None, 0, 0, None, 0))
def gradient_of_step(algorithm, learner, action, advantage, variate, key):
    """The policy's, in one state and for one action; what Adam's moment holds ten times less of."""
    choice = learner.networks.policy(SEEN_STATE[None])
    batch = RolloutBatch(
        SEEN_STATE[None], action[None], None, jnp.zeros(1), advantage[None], jnp.zeros(1), choice
    )
    after, _ = algorithm.gradient_step(learner, batch, jnp.ones(1), variate, key)
    moment = after.opt_state[0][1][0].mu.policy
    return -10 * jnp.concatenate([moment.head.bias, moment.log_std])


def of_steps(algorithm, learner, action, advantage, variate):
    """[action, parameter]"""
    keys = jax.random.split(jax.random.key(7), len(action))
    return np.asarray(
        gradient_of_step(algorithm, learner, action, np.float32(advantage), variate, keys), float
    )


def test_it_adds_no_bias_to_choices_and_takes_variance_away():
    """Summed over all actions, for a Q that is good and for one that is wrong; the plain gradient
    is Σ π A ∇log π."""
    algorithm = replace(PLAIN, control_variate=True)
    learner = fresh(algorithm)
    head = learner.networks.policy.head
    logits = np.asarray(head.weight @ SEEN_STATE + head.bias, float)
    p = np.exp(logits) / np.exp(logits).sum()
    advantage = np.array([3.0, -1.0, 0.5, 2.0])
    scores = np.eye(4) - p
    plain, mean = advantage[:, None] * scores, p @ (advantage[:, None] * scores)
    spread = lambda g: p @ ((g - mean) ** 2).sum(-1)
    rng = np.random.default_rng(0)
    near, wrong = (
        (np.zeros((4, 3)), advantage + 5 + [0.1, -0.1, 0, 0.2]),
        (rng.normal(size=(4, 3)), rng.normal(size=4)),
    )
    for q, good in ((near, True), (wrong, False)):
        ours = of_steps(algorithm, learner, np.arange(4), advantage, variate_of(FOUR, *q))
        np.testing.assert_allclose(p @ ours, mean, rtol=1e-4, atol=1e-4)
        assert (spread(ours) < 0.1 * spread(plain)) if good else abs(ours - plain).max() > 0.1


def test_with_normalized_advantages_the_unit_of_reward_does_not_matter():
    """The control variate is in the units of the advantages, so it is divided as they are."""
    algorithm = replace(PLAIN, control_variate=True, normalize_advantage=True)
    learner = fresh(algorithm)
    observation = jnp.tile(SEEN_STATE, (4, 1))
    pi = learner.networks.policy(observation)
    weight, bias = np.random.default_rng(0).normal(size=(2, 4, 3))
    advantage = np.float32([3.0, -1.0, 0.5, 2.0])

    @jax.jit
    def gradient(unit, variate):
        batch = RolloutBatch(
            observation, jnp.arange(4), None, jnp.zeros(4), unit * advantage, jnp.zeros(4), pi
        )
        after, _ = algorithm.gradient_step(learner, batch, jnp.ones(4), variate, KEY)
        return after.opt_state[0][1][0].mu.policy.head.bias

    one, ten = (
        np.asarray(gradient(unit, variate_of(FOUR, unit * weight, unit * bias[:, 0])))
        for unit in (1.0, 10.0)
    )
    assert abs(one).max() > 1e-3
    np.testing.assert_allclose(ten, one, rtol=1e-3, atol=1e-6)


@pytest.mark.slow
def test_it_adds_no_bias_to_a_box_and_takes_variance_away():
    """A = 2 a₁ - a₂ + 0.3 a₁²: ∇E A is (2 + 0.6 μ₁, -1) by the mean and (0.6 σ₁², 0) by log σ; four
    standard errors of it."""
    algorithm, space, n = replace(PLAIN, control_variate=True), Box((2,)), 4000
    learner = fresh(algorithm, space)
    head, std = (
        learner.networks.policy.head,
        np.exp(np.asarray(learner.networks.policy.log_std, float)),
    )
    mean = np.asarray(head.weight @ SEEN_STATE + head.bias, float)
    action = (mean + std * np.random.default_rng(0).normal(size=(n, 2))).astype(np.float32)
    advantage = 2 * action[:, 0] - action[:, 1] + 0.3 * action[:, 0] ** 2
    exact = [2 + 0.6 * mean[0], -1, 0.6 * std[0] ** 2, 0]
    ours = of_steps(
        algorithm, learner, action, advantage, variate_of(space, [[0.3, 0.1, 0, 2, -1]], [4.0])
    )
    assert (abs(ours.mean(0) - exact) < 4 * ours.std(0) / n**0.5 + 1e-4).all()
    noise = (action - mean) / std
    plain = advantage[:, None] * np.concatenate([noise / std, noise**2 - 1], -1)
    assert ours.var(0).sum() < 0.5 * plain.var(0).sum()


@pytest.mark.slow
@pytest.mark.parametrize("space", [Discrete(4), Box((2,))], ids=["discrete", "box"])
def test_q_is_fitted_to_its_targets(space):
    rng = np.random.default_rng(0)
    observation = rng.normal(size=(50, 3)).astype(np.float32)
    inputs = 3 if isinstance(space, Discrete) else 5
    weight, bias = (
        rng.normal(size=(4 if inputs == 3 else 1, inputs)),
        rng.normal(size=4 if inputs == 3 else 1),
    )
    action = rng.integers(0, 4, 50) if inputs == 3 else rng.normal(size=(50, 2)).astype(np.float32)
    rows = action if inputs == 3 else np.zeros(50, int)
    seen = observation if inputs == 3 else np.concatenate([observation, action], -1)
    target = ((weight[rows] * seen).sum(-1) + bias[rows]).astype(np.float32)
    rule = replace(PLAIN, value_learning_rate=0.05).value_optimizer()
    fit = jax.jit(
        lambda variate: jax.lax.scan(
            lambda v, _: v.fit(observation, action, target, rule), variate, length=500
        )
    )
    fitted, losses = fit(variate_of(space, np.zeros_like(weight), np.zeros_like(bias)))
    assert losses[0] == pytest.approx((target**2).mean() / 2, rel=1e-4) and losses[-1] < 1e-3
    np.testing.assert_allclose(fitted.critic.head.layers[-1].weight, weight, atol=0.05)


def test_what_does_not_go_together_is_refused():
    binary = EnvironmentSpec(OBSERVATION, MultiBinary((2,)), 1)
    with pytest.raises(
        InvalidInput,
        match="control_variate takes Discrete actions or a Box, and .* are MultiBinary",
    ):
        jax.eval_shape(lambda: ActorCritic(control_variate=True).init(KEY, binary))
    with pytest.raises(InvalidInput, match="value_steps is 3, and shared"):
        validate(ActorCritic(shared=True, value_steps=3))
    with pytest.raises(InvalidInput, match="n_step 5 is more than rollout_length 4"):
        validate(ActorCritic(advantage="n_step", rollout_length=4))
