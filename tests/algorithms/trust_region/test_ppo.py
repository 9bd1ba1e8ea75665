"""PPO: its losses against loops, rlax and the policy gradient, its schedules, and the values and
policies it learns."""

import math
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import rlax
import scipy.special
from filling import filled
from oracles import adam_moment, global_norm

from etude.algorithms.common import on_policy
from etude.algorithms.common.on_policy import LearnerState, RolloutBatch
from etude.algorithms.trust_region.ppo import PPO, DualGradient, PPOState
from etude.data.transition import Transition, random_permutation
from etude.errors import InvalidInput
from etude.estimators import running_statistics
from etude.estimators.running_statistics import Normalization
from etude.nn import distributions
from etude.nn.networks import make_torso
from etude.nn.policies import ActorCriticNetworks, PolicyNetwork, ValueNetwork
from etude.optim.schedules import linear_decay
from etude.spaces import Box, Discrete, EnvironmentSpec, MultiBinary
from etude.struct import replace

KEY = jax.random.key(0)
OBSERVATION = Box((3,))
ACTIONS = {"discrete": Discrete(4), "box": Box((2,))}
TIME, ENVS = 8, 3
SMALL = PPO(
    hidden=(5,),
    rollout_length=TIME,
    batch_size=6,
    epochs=2,
    learning_rate=0.01,
    discount=0.9,
    gae_lambda=0.8,
)
PLAIN = replace(SMALL, normalize_advantage=False)
no_steps = np.int32(0)


def fresh(ppo, space=ACTIONS["discrete"], seed=0):
    """The learner before the first step."""
    outputs = distributions.num_parameters(space)
    log_std = jnp.linspace(-0.5, 0.2, outputs) if isinstance(space, Box) else jnp.zeros(0)
    see, head = filled(lambda: make_torso(KEY, OBSERVATION, (5,), outputs, "relu"), seed, 1.0)
    agent = ActorCriticNetworks(
        PolicyNetwork(see, head, log_std, space, OBSERVATION),
        ValueNetwork(*filled(lambda: make_torso(KEY, OBSERVATION, (5,), 1, "relu"), seed + 1, 1.0)),
    )
    return LearnerState(
        agent,
        ppo.optimizer(no_steps).init(agent),
        running_statistics.init_observation_statistics(OBSERVATION),
        running_statistics.init_statistics(()),
        jnp.zeros(ENVS),
        no_steps,
    )


@jax.jit
def act(policy, observation, key):
    return policy(observation).sample(key)


def sampled_experience(state, seed=0):
    """Experience [time, env] of the policy."""
    rng = np.random.default_rng(seed)
    observation, after = rng.normal(1, 2, size=(2, TIME, ENVS, 3)).astype(np.float32)
    action = np.asarray(act(state.networks.policy, observation, jax.random.key(seed)))
    ends = rng.random((2, TIME, ENVS)) < 0.2
    return Transition(
        observation, action, rng.normal(3, 2, size=(TIME, ENVS)).astype(np.float32), after, *ends
    )


@jax.jit
def estimated(ppo, learner, experience):
    return on_policy.to_samples(
        ppo, experience, on_policy.compute_advantages(ppo, learner, experience)
    )


def estimate(ppo, learner, experience):
    """A Batch of samples, in NumPy."""
    return jax.device_get(estimated(ppo, learner, experience))


@jax.jit
def improve(ppo, learner, batch):
    return ppo.gradient_step(learner, batch, 0.0)


@jax.jit
def policy_loss(ppo, learner, batch, clip):
    return replace(ppo, clip=clip).policy_loss(
        learner.networks.policy(batch.observation), batch, 0.0, no_steps
    )


@jax.jit
def update(ppo, learner, experience, key):
    """The learner after an update, and its metrics."""
    state, metrics = ppo.update(PPOState(learner, jnp.float32(0)), experience, key)
    return state.learner, metrics


@jax.jit
def scale_reward(ppo, learner, experience):
    learner, scaled = on_policy.scale_reward(ppo, learner, experience)
    return learner, scaled.reward


def slow_forward(body, head, x):
    """A network of one hidden layer in float64."""
    (first,), second = body.layers, head
    hidden = np.asarray(x, float) @ np.asarray(first.weight, float).T + np.asarray(
        first.bias, float
    )
    return np.maximum(hidden, 0) @ np.asarray(second.weight, float).T + np.asarray(
        second.bias, float
    )


def value_of(learner):
    return learner.networks.value.torso, learner.networks.value.head


def slow_estimate(ppo, state, x):
    """(advantage, target, log probability) [time, env] of discrete actions, by loops."""
    value, after = (
        slow_forward(*value_of(state), observation)[..., 0]
        for observation in (x.observation, x.next_observation)
    )
    logits = slow_forward(state.networks.policy.torso, state.networks.policy.head, x.observation)
    advantage = np.zeros((TIME, ENVS))
    for i in range(ENVS):
        later = 0.0
        for t in reversed(range(TIME)):
            if x.terminated[t, i] or x.truncated[t, i]:
                later = 0.0
            future = 0.0 if x.terminated[t, i] else after[t, i]
            later = (
                x.reward[t, i]
                + ppo.discount * future
                - value[t, i]
                + ppo.discount * ppo.gae_lambda * later
            )
            advantage[t, i] = later
    log_p = logits - np.log(np.exp(logits).sum(-1, keepdims=True))
    return (
        advantage,
        advantage + value,
        np.take_along_axis(log_p, np.asarray(x.action)[..., None], -1)[..., 0],
    )


def test_estimates_are_those_of_a_loop():
    """A truncation bootstraps from the true successor; the sum of errors stops there all the
    same."""
    state = fresh(PLAIN)
    experience = sampled_experience(state)
    assert experience.terminated.any() and (experience.truncated & ~experience.terminated).any()
    batch = estimate(PLAIN, state, experience)
    advantage, target, log_prob = slow_estimate(PLAIN, state, experience)
    for ours, loop in (
        (batch.advantage, advantage),
        (batch.value_target, target),
        (batch.old_log_prob, log_prob),
    ):
        np.testing.assert_allclose(ours, loop.ravel(), rtol=1e-4, atol=1e-4)
    np.testing.assert_array_equal(batch.observation, experience.observation.reshape(-1, 3))
    np.testing.assert_array_equal(batch.action, experience.action.reshape(-1))


@pytest.mark.slow
@pytest.mark.parametrize("space", ACTIONS.values(), ids=ACTIONS)
def test_before_its_first_update_the_ratio_is_one(space):
    """Of a whole rollout to the last bit; products of fewer rows may be summed in another order,
    and round another way."""
    state = fresh(PLAIN, space)
    batch = estimate(PLAIN, state, sampled_experience(state))
    # a clip of 0 tells the smallest difference
    loss, metrics = policy_loss(PLAIN, state, batch, 0.0)
    assert metrics["kl"] == 0 and metrics["clipped"] == 0
    assert loss == pytest.approx(-float(batch.advantage.mean()), rel=1e-5)
    part = jax.tree.map(lambda x: x[[5, 2, 20, 11, 0, 3]], batch)
    _, metrics = improve(PLAIN, state, part)
    assert abs(metrics["kl"]) < 1e-7 and metrics["clipped"] == 0
    assert metrics["policy_loss"] == pytest.approx(-float(part.advantage.mean()), rel=1e-5)


@pytest.mark.parametrize("space", ACTIONS.values(), ids=ACTIONS)
@pytest.mark.parametrize("ppo", [PLAIN, SMALL], ids=["plain", "normalized"])
def test_the_first_gradient_is_the_policy_gradient(space, ppo):
    """∇ -E[A log π] with the same advantages."""
    state = fresh(ppo, space)
    batch = estimate(ppo, state, sampled_experience(state))
    advantage = batch.advantage
    if ppo.normalize_advantage:
        advantage = (advantage - advantage.mean()) / advantage.std()
    ours = jax.jit(
        jax.grad(lambda policy: ppo.policy_loss(policy(batch.observation), batch, 0.0, no_steps)[0])
    )
    loss = lambda policy: -(policy(batch.observation).log_prob(batch.action) * advantage).mean()
    ours, vanilla = ours(state.networks.policy), jax.jit(jax.grad(loss))(state.networks.policy)
    jax.tree.map(partial(np.testing.assert_allclose, rtol=1e-3, atol=1e-5), ours, vanilla)
    assert all(np.abs(x).max() > 1e-3 for x in jax.tree.leaves(ours) if x.size)


def test_the_clipped_loss_is_that_of_a_loop_and_of_rlax():
    state, older = fresh(PLAIN), fresh(PLAIN, seed=7)
    batch = estimate(PLAIN, state, sampled_experience(state))
    ratios = np.exp(np.random.default_rng(0).normal(0, 0.4, TIME * ENVS))
    batch = replace(batch, old_log_prob=batch.old_log_prob - np.log(ratios))
    for clip in (0.1, 0.3):
        loss, metrics = policy_loss(PLAIN, state, batch, clip)
        terms = []
        for ratio, advantage in zip(ratios, np.asarray(batch.advantage, float), strict=True):
            terms.append(min(ratio * advantage, min(max(ratio, 1 - clip), 1 + clip) * advantage))
        assert loss == pytest.approx(-np.mean(terms), rel=1e-4)
        assert loss == pytest.approx(
            float(rlax.clipped_surrogate_pg_loss(np.float32(ratios), batch.advantage, clip)),
            rel=1e-4,
        )
        assert metrics["clipped"] == pytest.approx((abs(ratios - 1) > clip).mean())
        assert metrics["kl"] == pytest.approx((ratios - 1 - np.log(ratios)).mean(), rel=1e-4)
    _, metrics = policy_loss(PLAIN, older, batch, 0.2)
    assert metrics["kl"] > 0


def test_normalized_advantages_have_mean_0_and_std_1_in_each_batch():
    """Their scale and offset then make no difference."""
    state = fresh(SMALL)
    batch = estimate(SMALL, state, sampled_experience(state))
    batch = replace(batch, old_log_prob=batch.old_log_prob + 0.05)
    other = replace(batch, advantage=7 * batch.advantage - 3)
    (loss, _), (same, _) = (
        policy_loss(SMALL, state, batch, 0.2),
        policy_loss(SMALL, state, other, 0.2),
    )
    assert loss == pytest.approx(float(same), abs=1e-5)
    assert policy_loss(PLAIN, state, batch, 0.2)[0] != pytest.approx(float(loss), rel=0.1)
    alike = replace(batch, advantage=np.full_like(batch.advantage, 3.0))
    # and no division by zero
    assert policy_loss(SMALL, state, alike, 0.2)[0] == pytest.approx(0, abs=1e-5)


@pytest.mark.parametrize("clip", [0.2, math.inf])
def test_the_value_loss_is_that_of_a_loop(clip):
    state, rng = fresh(SMALL), np.random.default_rng(0)
    observation = rng.normal(size=(40, 3)).astype(np.float32)
    now = slow_forward(*value_of(state), observation)[:, 0]
    before, target = now + rng.normal(0, 0.5, 40), now + rng.normal(0, 1, 40)
    batch = RolloutBatch(observation, None, None, np.float32(before), None, np.float32(target), ())
    terms = []
    for v, old, goal in zip(now, before, target, strict=True):
        held = min(max(v, old - clip), old + clip)
        terms.append(max((goal - v) ** 2, (goal - held) ** 2))
    ppo = replace(SMALL, value_clip=clip)
    loss, gradient = jax.jit(
        jax.value_and_grad(lambda value: ppo.value_loss(value(observation), batch))
    )(state.networks.value)
    assert loss == pytest.approx(np.mean(terms), rel=1e-4)
    assert all(np.isfinite(x).all() for x in jax.tree.leaves(gradient))
    if clip == math.inf:
        assert loss == pytest.approx(((target - now) ** 2).mean(), rel=1e-4)


@pytest.mark.slow
@pytest.mark.parametrize("space", ACTIONS.values(), ids=ACTIONS)
def test_the_entropy_bonus_raises_the_entropy(space):
    state = fresh(PLAIN, space)
    batch = estimate(PLAIN, state, sampled_experience(state))

    @jax.jit
    def entropies(ppo):
        def step(learner, _):
            learner, metrics = ppo.gradient_step(learner, batch, 0.0)
            return learner, metrics["entropy"]

        return jax.lax.scan(step, state, None, 20)[1]

    none, some, much = (
        entropies(replace(PLAIN, entropy_coefficient=share)) for share in (0.0, 1.0, 30.0)
    )
    assert none[0] == some[0] == much[0]
    assert none[-1] < some[-1] < much[-1] and much[-1] > much[0]


def test_the_value_coefficient_weighs_the_value_beside_the_policy():
    """Without it the value stays; with neither an advantage nor a bonus the policy does."""
    ppo = replace(PLAIN, max_gradient_norm=math.inf)
    state = fresh(ppo)
    batch = estimate(ppo, state, sampled_experience(state))
    after, _ = improve(replace(ppo, value_coefficient=0.0), state, batch)
    jax.tree.map(np.testing.assert_array_equal, after.networks.value, state.networks.value)
    after, _ = improve(ppo, state, replace(batch, advantage=np.zeros(TIME * ENVS)))
    jax.tree.map(np.testing.assert_array_equal, after.networks.policy, state.networks.policy)
    assert (after.networks.value.head.weight != state.networks.value.head.weight).any()


def test_the_learning_rate_falls_linearly_to_zero():
    """Adam's first step is as long as the rate."""
    ppo = replace(PLAIN, learning_rate_decay=1000.0)
    state = fresh(ppo)
    batch = estimate(ppo, state, sampled_experience(state))
    before = jax.tree.leaves(state.networks)

    def longest(steps, ppo=ppo):
        after, _ = improve(ppo, replace(state, steps=jnp.int32(steps)), batch)
        return max(
            np.abs(a - b).max()
            for a, b in zip(jax.tree.leaves(after.networks), before, strict=True)
            if a.size
        )

    np.testing.assert_allclose(
        [longest(steps) for steps in (0, 250, 900, 1000, 5000)],
        [0.01, 0.0075, 0.001, 0, 0],
        rtol=0.02,
        atol=1e-7,
    )
    assert longest(10**9, PLAIN) == pytest.approx(0.01, rel=0.02)  # no decay: never


def test_the_clip_falls_linearly_to_zero():
    ppo = replace(PLAIN, clip=0.4, clip_decay=1000.0)
    state = fresh(ppo)
    batch = estimate(ppo, state, sampled_experience(state))
    ratios = np.linspace(0.613, 1.391, TIME * ENVS)
    batch = replace(batch, old_log_prob=batch.old_log_prob - np.log(ratios))
    for steps, clip in ((0, 0.4), (250, 0.3), (500, 0.2), (900, 0.04), (1000, 0), (9999, 0)):
        _, metrics = improve(ppo, replace(state, steps=np.int32(steps)), batch)
        assert metrics["clipped"] == pytest.approx((abs(ratios - 1) > clip).mean()), steps


def test_what_remains():
    np.testing.assert_allclose(
        [linear_decay(np.int32(steps), 200.0) for steps in (0, 50, 200, 10**9)],
        [1, 0.75, 0, 0],
        atol=1e-37,
    )
    assert linear_decay(np.int32(2**31 - 1), math.inf) == 1


@pytest.mark.parametrize("limit", [0.01, 1e9])
def test_the_gradient_is_clipped_by_its_global_norm(limit):
    """That of policy and value together; Adam's first moment after one step is a tenth of the
    gradient it was given."""
    ppo = replace(PLAIN, max_gradient_norm=limit, entropy_coefficient=0.1)
    state = fresh(ppo)
    batch = estimate(ppo, state, sampled_experience(state))

    def loss(agent):
        choice, value, _ = agent(batch.observation)
        policy_loss, metrics = ppo.policy_loss(choice, batch, 0.0, no_steps)
        return policy_loss + 0.5 * ppo.value_loss(value, batch) - 0.1 * metrics["entropy"]

    gradient = jax.jit(jax.grad(loss))(state.networks)
    gradient = jax.device_get(gradient)
    norm = global_norm(gradient)
    assert 0.01 < norm < 1e9
    after, _ = improve(ppo, state, batch)
    moment = adam_moment(after.opt_state)
    expected = jax.tree.map(lambda g: 0.1 * g * min(1, limit / norm), gradient)
    jax.tree.map(partial(np.testing.assert_allclose, rtol=1e-3, atol=1e-8), moment, expected)


@pytest.fixture(scope="module")
def normalizing():
    """(PPO, states before and after each of three updates, the experience of each)."""
    ppo = replace(
        SMALL,
        normalize_observation=Normalization(clip=1.5),
        normalize_reward=Normalization(clip=12.0),
    )
    states, lives = [fresh(ppo)], []
    for seed in range(3):
        lives.append(sampled_experience(states[-1], seed))
        states.append(update(ppo, states[-1], lives[-1], jax.random.key(seed))[0])
    return ppo, states, lives


@pytest.mark.slow
def test_the_state_holds_the_moments_of_all_observations(normalizing):
    _, states, lives = normalizing
    for i in range(1, 4):
        seen = np.concatenate([x.observation for x in lives[:i]]).reshape(-1, 3).astype(float)
        (held,) = states[i].observation_statistics
        np.testing.assert_allclose(held.mean, seen.mean(0), rtol=1e-4)
        np.testing.assert_allclose(held.variance, seen.var(0), rtol=1e-4)
        assert held.count == i * TIME * ENVS == states[i].steps


@pytest.mark.slow
def test_the_policy_sees_observations_normalized_and_learns_from_what_it_saw(normalizing):
    ppo, states, lives = normalizing
    observation = lives[2].observation
    seen = np.concatenate([x.observation for x in lives[:2]]).reshape(-1, 3).astype(float)
    expected = ((observation - seen.mean(0)) / seen.std(0)).astype(np.float32)
    assert abs(expected).max() > 1.5
    expected = expected.clip(-1.5, 1.5)
    action, _ = on_policy.act(ppo, states[2], observation[0], (), KEY, explore=False)
    np.testing.assert_array_equal(action, states[2].networks.policy(expected[0]).mode())
    batch = estimate(ppo, states[2], lives[2])
    np.testing.assert_allclose(batch.observation, expected.reshape(-1, 3), atol=1e-3)
    np.testing.assert_allclose(
        batch.old_value, states[2].networks.value(expected).ravel(), rtol=1e-3, atol=1e-3
    )
    np.testing.assert_allclose(
        on_policy.normalize_observation(ppo, states[2], observation), expected, atol=1e-3
    )
    assert on_policy.normalize_observation(SMALL, states[2], observation) is observation


def test_rewards_are_divided_by_the_spread_of_discounted_sums(normalizing):
    """VecNormalize's sums, which stop where an episode does; their spread is that of all up to this
    rollout's end."""
    ppo, states, lives = normalizing
    sums, carry = [], np.zeros(ENVS)
    for i, x in enumerate(lives):
        for t in range(TIME):
            carry = carry * ppo.discount + x.reward[t]
            sums.append(carry)
            carry = np.where(x.terminated[t] | x.truncated[t], 0, carry)
        _, reward = scale_reward(ppo, states[i], x)
        np.testing.assert_allclose(
            reward, np.clip(x.reward / np.sqrt(np.var(sums) + 1e-8), -12, 12), rtol=1e-3
        )
        assert states[i + 1].return_statistics.variance == pytest.approx(np.var(sums), rel=1e-4)
        np.testing.assert_allclose(
            states[i + 1].discounted_return, ppo.discount * carry, rtol=1e-4, atol=1e-5
        )
    rare = replace(
        lives[0],
        reward=np.where(np.arange(TIME * ENVS).reshape(TIME, ENVS) == 4, 1e6, 0).astype(np.float32),
        terminated=np.ones((TIME, ENVS), bool),
    )
    _, reward = scale_reward(
        ppo, replace(states[0], return_statistics=states[-1].return_statistics), rare
    )
    assert reward.max() < 12  # it is part of the spread that divides it
    settled = replace(
        states[0], return_statistics=replace(states[-1].return_statistics, count=np.int32(10**9))
    )
    _, reward = scale_reward(ppo, settled, rare)
    assert reward.max() == 12


def test_without_normalization_rewards_and_moments_stay():
    state = fresh(SMALL)
    experience = sampled_experience(state)
    same, scaled = on_policy.scale_reward(SMALL, state, experience)
    assert same is state and scaled is experience


def test_an_update_is_epochs_of_minibatches_on_one_estimate():
    """Each sample once an epoch, what is left over of the last batch not at all, in an order of the
    epoch's own."""
    ppo = replace(PLAIN, batch_size=7)
    state = fresh(ppo)
    experience = sampled_experience(state)
    after, metrics = update(ppo, state, experience, KEY)
    assert metrics["updates"] == 2 * 3
    batch, now, told = estimate(ppo, state, experience), state, []
    for key in jax.random.split(KEY, 2):
        order = np.asarray(random_permutation(key, TIME * ENVS))
        assert sorted(order) == list(range(TIME * ENVS))
        for rows in np.split(order[:21], 3):
            now, one = improve(ppo, now, jax.tree.map(lambda x, rows=rows: x[rows], batch))
            told.append(one)
    jax.tree.map(
        partial(np.testing.assert_allclose, rtol=1e-3, atol=1e-5), after.networks, now.networks
    )
    for name in ("policy_loss", "value_loss", "entropy", "kl", "clipped"):
        assert metrics[name] == pytest.approx(
            np.mean([one[name] for one in told]), rel=1e-3, abs=1e-6
        )


@pytest.mark.slow
def test_the_spread_of_continuous_actions_starts_where_it_is_told():
    ppo = replace(PLAIN, initial_std=0.3)
    spec = EnvironmentSpec(OBSERVATION, Box((2,), low=-1.0, high=1.0), ENVS)
    state = jax.jit(lambda: ppo.init(KEY, spec))()
    observation = np.zeros((20_000, 3), np.float32)
    act = jax.jit(PPO.act, static_argnames="explore")
    sample, memory = act(ppo, state, observation, (), KEY, explore=True)
    mode, _ = act(ppo, state, observation, (), KEY, explore=False)
    np.testing.assert_allclose((sample - mode).std(0), 0.3, rtol=0.03)
    # a last layer of scale 0.01 starts in the middle
    assert (abs(mode) < 0.05).all() and memory == ()
    assert state.learner.networks.policy.log_std.shape == (2,)
    discrete = jax.eval_shape(
        lambda: ppo.init(KEY, EnvironmentSpec(OBSERVATION, MultiBinary((2,)), ENVS))
    )
    assert discrete.learner.networks.policy.log_std.shape == (0,)


def test_a_batch_larger_than_the_rollout_is_refused():
    with pytest.raises(
        InvalidInput,
        match=r"batch_size 25 is larger than a rollout of 24 samples \(rollout_length 8",
    ):
        replace(SMALL, batch_size=25).init(KEY, EnvironmentSpec(OBSERVATION, Discrete(2), ENVS))


# Held by a divergence, and with one body

SETTINGS = {
    "hidden": (5,),
    "rollout_length": TIME,
    "batch_size": 6,
    "epochs": 2,
    "learning_rate": 0.01,
    "normalize_advantage": False,
}


@jax.jit
def dual_update(ppo, state, experience, key):
    return ppo.update(state, experience, key)


def divergence(before, after, observation):
    """KL(before || after) of two learners' discrete policies, by enumeration: the mean over
    observations."""
    logits = (
        slow_forward(learner.networks.policy.torso, learner.networks.policy.head, observation)
        for learner in (before, after)
    )
    p, q = (scipy.special.softmax(x, -1) for x in logits)
    return (p * np.log(p / q)).sum(-1).mean()


def test_the_adaptive_penalty_doubles_and_halves():
    """Above 1.5 times the divergence asked for and below the 1.5th part (Schulman et al., 2017,
    section 4); else it stays."""
    ppo = replace(PLAIN, kl_penalty="adaptive")
    before, after = fresh(ppo), fresh(ppo, seed=7)
    batch = estimate(ppo, before, sampled_experience(before))
    kl = divergence(before, after, batch.observation)
    adjust = jax.jit(
        lambda target: replace(ppo, kl_target=target).update_kl_coefficient(
            jnp.float32(3), after.networks, batch
        )
    )
    told = [float(adjust(kl / ratio)) for ratio in (1.55, 1.45, 1.0, 0.69, 0.64)]
    assert told == [6, 3, 3, 3, 1.5]
    assert PLAIN.update_kl_coefficient(3.0, after.networks, batch) == 3


@pytest.mark.parametrize("target", [1e-6, 0.5], ids=["exceeded", "kept"])
def test_dual_ascent_moves_the_penalty_by_the_violation(target):
    """β ← max(β + rate (KL - target), 0), with the divergence that the update has come to; each
    loss has the β before."""
    ppo = DualGradient(**SETTINGS, kl_target=target, kl_coefficient_rate=4.0)
    state = PPOState(fresh(ppo), np.float32(1))
    experience = sampled_experience(state.learner)
    after, metrics = dual_update(ppo, state, experience, KEY)
    kl = divergence(state.learner, after.learner, experience.observation)
    assert kl > 1e-3 and (kl > target) == (target < 0.1)
    assert after.kl_coefficient == pytest.approx(max(1 + 4 * (kl - target), 0), rel=1e-3, abs=1e-6)
    assert metrics["updates"] == 8
    below = dual_update(ppo, replace(state, kl_coefficient=np.float32(0.01)), experience, KEY)[
        0
    ].kl_coefficient
    assert (below == 0) == (target > 0.1)


@pytest.mark.slow
def test_a_penalty_holds_the_policy_back():
    ppo = DualGradient(**SETTINGS)
    learner = fresh(ppo)
    experience = sampled_experience(learner)
    free, held = (
        dual_update(ppo, PPOState(learner, np.float32(beta)), experience, KEY)[0].learner
        for beta in (0, 100)
    )
    went, stayed = (divergence(learner, after, experience.observation) for after in (free, held))
    assert stayed < went / 3


def test_dual_gradient_is_ppo_without_a_clip():
    ppo = DualGradient(kl_coefficient_rate=3.0)
    assert ppo == PPO(clip=math.inf, kl_penalty="dual", kl_coefficient_rate=3.0)
    assert DualGradient.func is PPO and ppo.kl_stop is False


@pytest.mark.slow
@pytest.mark.parametrize("space", ACTIONS.values(), ids=ACTIONS)
def test_the_penaltys_gradient_is_zero_at_the_policy_before(space):
    """The divergence is smallest there; elsewhere the loss is that without it and β times the
    divergence."""
    ppo = replace(PLAIN, kl_penalty="adaptive")
    state, other = fresh(ppo, space), fresh(ppo, space, seed=7)
    batch = estimate(ppo, state, sampled_experience(state))

    @jax.jit
    def loss(policy, penalty):
        judged = lambda policy: ppo.policy_loss(
            policy(batch.observation), batch, penalty, no_steps
        )[0]
        return *jax.value_and_grad(judged)(policy), batch.old_distribution.kl(
            policy(batch.observation)
        ).mean()

    (value, slope, kl), (same, alike, _) = (
        loss(state.networks.policy, penalty) for penalty in (0.0, 10.0)
    )
    assert kl == pytest.approx(0, abs=1e-6) and value == pytest.approx(float(same), abs=1e-5)
    jax.tree.map(partial(np.testing.assert_allclose, rtol=1e-3, atol=1e-4), alike, slope)
    (value, slope, kl), (more, unlike, _) = (
        loss(other.networks.policy, penalty) for penalty in (0.0, 10.0)
    )
    assert kl > 0.01 and more - value == pytest.approx(10 * float(kl), rel=1e-3)
    assert not np.allclose(unlike.head.weight, slope.head.weight, atol=1e-2)


def test_without_a_clip_the_whole_ratio_counts():
    state = fresh(PLAIN)
    batch = estimate(PLAIN, state, sampled_experience(state))
    ratios = np.exp(np.random.default_rng(0).normal(0, 1, TIME * ENVS))
    batch = replace(batch, old_log_prob=batch.old_log_prob - np.log(ratios))
    loss, metrics = policy_loss(PLAIN, state, batch, math.inf)
    assert loss == pytest.approx(-(ratios * np.asarray(batch.advantage, float)).mean(), rel=1e-4)
    assert metrics["clipped"] == 0


def test_no_more_steps_are_taken_once_the_policy_has_gone_too_far():
    """Nor on a later batch that it is nearer on. The parameters are those after the last step; of
    metrics only its own count."""
    ppo = replace(PLAIN, batch_size=7, learning_rate=0.1)
    state = fresh(ppo)
    experience = sampled_experience(state)
    batch, nearer = estimate(ppo, state, experience), 0
    parts = [
        jax.tree.map(lambda x, rows=rows: x[rows], batch)
        for key in jax.random.split(KEY, 2)
        for rows in np.split(np.asarray(random_permutation(key, TIME * ENVS))[:21], 3)
    ]
    for target in (0.005, 0.02, 0.04, 0.06):
        after, metrics = update(
            replace(ppo, kl_stop=True, kl_target=target), state, experience, KEY
        )
        now, told = state, []
        while (step := improve(ppo, now, parts[len(told)]))[1]["kl"] <= 1.5 * target:
            now, told = step[0], [*told, step[1]]
        nearer += sum(
            improve(ppo, now, part)[1]["kl"] <= 1.5 * target for part in parts[len(told) :]
        )
        assert 1 <= metrics["updates"] == len(told) < 6
        jax.tree.map(
            partial(np.testing.assert_allclose, rtol=1e-3, atol=1e-5),
            after,
            replace(now, steps=after.steps),
        )
        for name in ("policy_loss", "value_loss", "kl"):
            assert metrics[name] == pytest.approx(
                np.mean([one[name] for one in told]), rel=1e-3, abs=1e-6
            )
    assert nearer and after.steps == TIME * ENVS
    patient = replace(ppo, kl_stop=True, learning_rate=1e-4)
    assert update(patient, state, experience, KEY)[1]["updates"] == 6
