"""TRPO: its steps against explicit Fisher matrices and the limit on the divergence, and what it
learns."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from filling import filled

from etude.algorithms.common import on_policy
from etude.algorithms.common.on_policy import RolloutBatch
from etude.algorithms.trust_region.trpo import TRPO, NaturalGradient
from etude.errors import InvalidInput
from etude.nn.distributions import broadcast_params
from etude.nn.networks import make_torso
from etude.nn.policies import PolicyNetwork, ValueNetwork
from etude.nn.recurrent import GRU
from etude.spaces import Box, Discrete, EnvironmentSpec
from etude.struct import replace, validate

KEY = jax.random.key(0)
OBSERVATION = Box((3,))
ACTIONS = {"discrete": Discrete(4), "box": Box((2,))}
CASES, SAMPLES = 24, 30
PLAIN = TRPO(hidden=(5,), normalize_advantage=False, damping=1e-3)


def policies(space, hidden, cases=CASES):
    """With a leading [case]."""

    def one(seed):
        outputs = 4 if isinstance(space, Discrete) else 2
        log_std = jnp.linspace(-0.5, 0.2, outputs) if isinstance(space, Box) else jnp.zeros(0)
        return PolicyNetwork(
            *filled(lambda: make_torso(KEY, OBSERVATION, hidden, outputs), seed, 0.7),
            log_std,
            space,
            OBSERVATION,
        )

    return jax.tree.map(lambda *x: np.stack(x), *map(one, range(cases)))


def batches(policy, cases=CASES):
    """Experience [case, sample] of each."""
    rng = np.random.default_rng(0)
    observation, advantage = (
        rng.normal(size=(cases, SAMPLES, 3)),
        rng.normal(0.5, 2, size=(cases, SAMPLES)),
    )

    @jax.jit
    @jax.vmap
    def act(policy, observation, advantage, key):
        choice = policy(observation)
        action = choice.sample(key)
        return RolloutBatch(
            observation,
            action,
            choice.log_prob(action),
            advantage,
            advantage,
            advantage,
            broadcast_params(choice),
        )

    return jax.device_get(
        act(policy, np.float32(observation), np.float32(advantage), jax.random.split(KEY, cases))
    )


@jax.jit
@jax.vmap
def improve(trpo, policy, batch):
    after, metrics = trpo.update_policy(policy, batch)
    choice = broadcast_params(after(batch.observation))
    return after, metrics, choice, choice.log_prob(batch.action)


def at_limits(trpo, limits):
    """The same for every case, but for its limit."""
    return replace(
        jax.tree.map(lambda x: np.full(len(limits), x, np.float32), trpo),
        kl_limit=np.float32(limits),
    )


def divergence(old, new):
    """E[KL(old || new)] of each case, in float64."""
    p, q = (jax.tree.map(lambda x: np.asarray(x, float), choice) for choice in (old, new))
    if hasattr(p, "logits"):
        p, q = (x.logits - np.log(np.exp(x.logits).sum(-1, keepdims=True)) for x in (p, q))
        return (np.exp(p) * (p - q)).sum(-1).mean(-1)
    ratio = np.exp(p.log_std - q.log_std)
    return (
        (q.log_std - p.log_std + (ratio**2 + ((p.mean - q.mean) / np.exp(q.log_std)) ** 2 - 1) / 2)
        .sum(-1)
        .mean(-1)
    )


def gains(batch, log_prob):
    """E[(ratio - 1) A] of each case, in float64."""
    return (
        np.expm1(np.asarray(log_prob, float) - batch.old_log_prob) * np.asarray(batch.advantage)
    ).mean(-1)


@pytest.mark.parametrize(
    "space",
    [ACTIONS["discrete"], pytest.param(ACTIONS["box"], marks=pytest.mark.slow)],
    ids=ACTIONS,
)
def test_a_step_keeps_its_limit_and_gains_or_is_not_taken(space):
    """Where there is nothing to gain, and where rounding leaves nothing of a step so small, the
    policy stays to the last bit."""
    policy = policies(space, (5,))
    batch = batches(policy)
    nothing = np.arange(CASES) % 8 == 0
    batch = replace(batch, advantage=np.where(nothing[:, None], np.float32(0), batch.advantage))
    limits = np.resize([0.01, 0.3, 2.0, 1e-20, 0.05], CASES)
    after, metrics, choice, log_prob = jax.device_get(
        improve(at_limits(PLAIN, limits), policy, batch)
    )
    kl, gain, taken = (
        divergence(batch.old_distribution, choice),
        gains(batch, log_prob),
        np.asarray(metrics["accepted"]) > 0,
    )
    assert (
        not taken[nothing].any()
        and not taken[limits < 1e-10].any()
        and taken[~nothing & (limits > 1e-10)].mean() > 0.9
    )
    assert (kl[taken] <= limits[taken] * 1.001 + 1e-6).all() and (gain[taken] > 0).all()
    small = taken & (limits < 0.1)
    assert (kl[small] > 0.3 * limits[small]).all(), (kl / limits)[small]  # and goes most of the way
    np.testing.assert_allclose(metrics["kl"], kl, rtol=1e-3, atol=1e-6)
    np.testing.assert_allclose(metrics["surrogate"], gain, rtol=1e-2, atol=1e-5)
    jax.tree.map(
        lambda new, old: np.testing.assert_array_equal(np.asarray(new)[~taken], old[~taken]),
        after,
        policy,
    )
    assert (np.asarray(metrics["tries"])[nothing] == PLAIN.line_search_steps).all()
    assert (np.asarray(metrics["tries"])[taken] > 1).any()  # some had to be shortened


def natural_gradient(trpo, batch, policy, every):
    """(gradient, α F⁻¹ g) of the bias and weights of a linear policy over choices, by explicit
    matrices in float64."""
    x = np.concatenate([np.asarray(batch.observation, float), np.ones((SAMPLES, 1))], -1)
    logits = x @ np.concatenate([policy.head.weight, policy.head.bias[:, None]], -1).astype(float).T
    p = np.exp(logits) / np.exp(logits).sum(-1, keepdims=True)
    advantage = np.asarray(batch.advantage, float)
    g = (
        np.einsum("s,sa,so->ao", advantage, np.eye(4)[np.asarray(batch.action)] - p, x).ravel()
        / SAMPLES
    )
    fisher = np.zeros((16, 16))
    for state in range(0, SAMPLES, every):
        fisher += np.kron(
            np.diag(p[state]) - np.outer(p[state], p[state]), np.outer(x[state], x[state])
        )
    fisher = fisher / len(range(0, SAMPLES, every)) + trpo.damping * np.eye(16)
    direction = np.linalg.solve(fisher, g)
    return g, np.sqrt(2 * trpo.kl_limit / (g @ direction)) * direction


@pytest.mark.parametrize("every", [pytest.param(1, marks=pytest.mark.slow), 3])
def test_the_natural_gradient_is_that_of_the_fisher_matrix(every):
    """Of every so many samples. To first order the step moves the policy by its limit."""
    trpo = NaturalGradient(
        hidden=(),
        normalize_advantage=False,
        damping=0.02,
        kl_limit=1e-4,
        conjugate_steps=30,
        fisher_interval=every,
    )
    policy = policies(Discrete(4), (), 4)
    batch = batches(policy, 4)
    after, metrics, choice, _ = jax.device_get(
        improve(at_limits(trpo, np.full(4, 1e-4)), policy, batch)
    )
    flat = lambda policy: np.concatenate(
        [policy.head.weight, policy.head.bias[..., None]], -1
    ).reshape(4, 16)
    for case in range(4):
        one = partial(jax.tree.map, lambda x, case=case: np.asarray(x[case]))
        _, step = natural_gradient(trpo, one(batch), one(policy), every)
        np.testing.assert_allclose(
            (flat(after) - flat(policy))[case], step, rtol=0.02, atol=0.01 * abs(step).max()
        )
    kl = divergence(batch.old_distribution, choice)
    if every == 1:
        assert (kl < 1.02e-4).all() and (kl > 0.6e-4).all()  # damping takes its share
    assert (metrics["accepted"] == 1).all() and (metrics["tries"] == 1).all()


def test_the_first_gradient_is_the_policy_gradient():
    """∇ E[A log π], with advantages normalized if so wished."""
    policy = jax.tree.map(lambda x: x[0], policies(Discrete(4), (), 1))
    batch = jax.tree.map(lambda x: x[0], batches(jax.tree.map(lambda x: x[None], policy), 1))
    for trpo in (PLAIN, replace(PLAIN, normalize_advantage=True)):
        value, gradient = jax.jit(jax.value_and_grad(trpo.surrogate))(policy, batch)
        advantage = np.asarray(batch.advantage)
        if trpo.normalize_advantage:
            advantage = (advantage - advantage.mean()) / advantage.std()
        exact, _ = natural_gradient(trpo, replace(batch, advantage=advantage), policy, 1)
        ours = np.concatenate([gradient.head.weight, gradient.head.bias[:, None]], -1).ravel()
        np.testing.assert_allclose(ours, exact, rtol=1e-3, atol=1e-5)
        assert value == pytest.approx(advantage.mean(), abs=1e-5)


def test_each_pass_of_the_value_has_an_order_of_its_own(monkeypatch):
    trpo = replace(PLAIN, hidden=(), batch_size=10, value_epochs=3)
    value = ValueNetwork(*filled(lambda: make_torso(KEY, OBSERVATION, (), 1)))
    observation, target = jnp.zeros((SAMPLES, 3)), jnp.zeros(SAMPLES)
    batch = RolloutBatch(observation, None, None, None, None, target, None)
    shuffle, keys = on_policy.shuffle_minibatches, []

    def noted(algorithm, key, batch):
        jax.debug.callback(lambda data: keys.append(data.tobytes()), jax.random.key_data(key))
        return shuffle(algorithm, key, batch)

    monkeypatch.setattr(on_policy, "shuffle_minibatches", noted)
    fit = lambda value, opt_state, key: trpo.fit_value(value, opt_state, batch, key)
    jax.block_until_ready(jax.jit(fit)(value, trpo.optimizer().init(value), KEY))
    jax.effects_barrier()
    assert len(keys) == len(set(keys)) == 3


@pytest.mark.slow
def test_the_value_is_fitted_in_so_many_passes():
    """Its loss falls to that of the best line; steps are passes times batches."""
    trpo = replace(PLAIN, hidden=(), batch_size=10, value_epochs=80, learning_rate=0.03)
    rng = np.random.default_rng(0)
    observation = rng.normal(size=(SAMPLES, 3)).astype(np.float32)
    target = (observation @ [1, -2, 0.5] + 3 + rng.normal(0, 0.1, SAMPLES)).astype(np.float32)
    value = ValueNetwork(*filled(lambda: make_torso(KEY, OBSERVATION, (), 1)))
    batch = RolloutBatch(observation, None, None, None, None, target, None)
    fit = jax.jit(trpo.fit_value)
    fitted, optimizer, loss = fit(value, trpo.optimizer().init(value), batch, KEY)
    error = lambda value: float(((target - value(observation)) ** 2).mean())
    x = np.concatenate([observation, np.ones((SAMPLES, 1))], -1)
    best = ((target - x @ np.linalg.lstsq(x, target, rcond=None)[0]) ** 2).mean()
    assert error(fitted) < best + 0.02 < loss < error(value)
    assert optax.tree.get(optimizer, "count") == 80 * 3


def test_what_does_not_go_together_is_refused():
    with pytest.raises(
        InvalidInput, match="fisher_interval is 2; a policy with a memory needs every step"
    ):
        validate(TRPO(fisher_interval=2, recurrent=GRU()))
    with pytest.raises(InvalidInput, match="batch_size 128 is larger than a rollout of 60 samples"):
        TRPO(rollout_length=30).init(KEY, EnvironmentSpec(OBSERVATION, Discrete(2), 2))
    with pytest.raises(InvalidInput, match="kl_limit is 0"):
        validate(TRPO(kl_limit=0.0))
    validate(NaturalGradient())
