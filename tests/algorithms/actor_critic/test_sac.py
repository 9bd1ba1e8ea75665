"""SAC: gradient steps against NumPy, gradients against quadrature, its temperature, and what it
learns where that is known."""

import math
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.special
import scipy.stats
from batches import one_step, sample
from filling import filled
from gymnasium_spaces import OBSERVATIONS
from oracles import Adam, choices, experience, polyak, reals, weights_of
from probing import ACTION, BOTH, CONSTANT, DISCOUNTING, LIMITED, SEEN, learned, of

from etude.algorithms.actor_critic.sac import (
    SAC,
    OffPolicyActorCritic,
    StochasticPolicy,
    actions_for,
)
from etude.data.replay import ring_buffer
from etude.data.transition import zeros_like_spec
from etude.environments import probes
from etude.errors import InvalidInput
from etude.spaces import Box, Discrete, EnvironmentSpec, space_from_gymnasium
from etude.struct import replace, struct, validate

KEY = jax.random.key(0)
OBSERVATION = Box((3,))
ACTIONS = {"box": Box((2,), low=-1.0, high=1.0), "discrete": Discrete(4)}
SMALL = SAC(
    hidden=(4,),
    activation="tanh",
    batch_size=6,
    capacity=12,
    rollout_length=3,
    warmup_steps=12,
    gradient_steps=2,
    learning_rate=0.02,
    discount=0.9,
    target_rate=0.1,
    initial_temperature=0.3,
)
every_kind = pytest.mark.parametrize("kind", ACTIONS)


def spec_of(kind):
    return EnvironmentSpec(OBSERVATION, ACTIONS[kind], 2)


def fresh(sac, kind, seed=0):
    """The state before the first step, but with weights, the targets' others, from NumPy."""
    init = partial(sac.init, KEY, spec_of(kind))
    state, zeros = (
        filled(init, seed, 0.4),
        jax.tree.map(lambda x: np.zeros(x.shape, x.dtype), jax.eval_shape(init)),
    )
    log_temperature = jnp.log(jnp.float32(sac.initial_temperature)) if sac.learn_temperature else ()
    return replace(
        zeros,
        policy=state.policy,
        critics=state.critics,
        target_critics=state.target_critics,
        log_temperature=log_temperature,
    )


def transitions(kind, seed, *leading):
    return experience(seed, *leading, action=reals(2) if kind == "box" else choices(4))


@jax.jit
def gradient_step(sac, state, batch, key):
    return sac.gradient_step(state, one_step(sac, batch), key)


@jax.jit
def update(sac, state, experience, key):
    return sac.update(state, experience, key)


def weights(net):
    return weights_of(net.head)


class Slow:
    """SAC in float64: losses as sums over actions and noise that is given, gradients by finite
    differences, Adam written out."""

    def __init__(self, sac, state, kind):
        self.sac, self.kind = sac, kind
        self.policy, self.critics = (
            weights(state.policy.network),
            [x for net in state.critics for x in weights(net)],
        )
        self.targets = [x for net in state.target_critics for x in weights(net)]
        self.log_temperature = (
            [np.array(float(state.log_temperature))] if sac.learn_temperature else []
        )
        self.adams = {name: Adam() for name in ("policy", "critics", "log_temperature")}

    @property
    def temperature(self):
        return (
            math.exp(self.log_temperature[0])
            if self.sac.learn_temperature
            else float(self.sac.initial_temperature)
        )

    @staticmethod
    def forward(weights, x):
        w1, b1, w2, b2 = weights
        return np.tanh(x @ w1.T + b1) @ w2.T + b2

    def q(self, critics, observation, action):
        """[critic, ...]; of every action, [critic, ..., action], when that is None."""
        inputs = (
            observation if self.kind == "discrete" else np.concatenate([observation, action], -1)
        )
        values = np.stack(
            [self.forward(critics[i : i + 4], inputs) for i in range(0, len(critics), 4)]
        )
        if self.kind == "box":
            return values[..., 0]
        if action is None:
            return values
        return np.take_along_axis(
            values, np.broadcast_to(action[..., None], (*values.shape[:-1], 1)), -1
        )[..., 0]

    def log_softmax(self, policy, observation):
        logits = self.forward(policy, observation)
        return logits - np.log(np.exp(logits).sum(-1, keepdims=True))

    def normal(self, policy, observation):
        mean, log_std = np.split(self.forward(policy, observation), 2, -1)
        return mean, np.exp(log_std.clip(-20, 2))

    @staticmethod
    def log_density(mean, std, u):
        return (scipy.stats.norm(mean, std).logpdf(u) - np.log(1 - np.tanh(u) ** 2)).sum(-1)

    def expectation(self, policy, critics, observation, key):
        """E[min Q - α log π] and E[-log π] at each observation."""
        if self.kind == "discrete":
            log_p = self.log_softmax(policy, observation)
            soft = self.q(critics, observation, None).min(0) - self.temperature * log_p
            return (np.exp(log_p) * soft).sum(-1), -(np.exp(log_p) * log_p).sum(-1)
        mean, std = self.normal(policy, observation)
        u = mean + std * np.asarray(jax.random.normal(key, mean.shape), float)
        log_prob = self.log_density(mean, std, u)
        return self.q(critics, observation, np.tanh(u)).min(
            0
        ) - self.temperature * log_prob, -log_prob

    def drawn(self, policy, observation, key):
        """Two actions at each observation, as u for a Box."""
        if self.kind == "discrete":
            logits = self.forward(policy, observation).astype(np.float32)
            return np.asarray(jax.random.categorical(key, np.stack([logits, logits])))
        mean, std = self.normal(policy, observation)
        return mean + std * np.asarray(jax.random.normal(key, (2, *mean.shape)), float)

    def score(self, policy, observation, draws):
        if self.kind == "discrete":
            log_p = np.stack([self.log_softmax(policy, observation)] * 2)
            return np.take_along_axis(log_p, draws[..., None], -1)[..., 0]
        return self.log_density(*self.normal(policy, observation), draws)

    def step(self, name, loss):
        """Adam along the gradient of `loss`, a function of the parameters called `name`."""
        parameters = getattr(self, name)
        gradient = []
        for i, array in enumerate(parameters):
            gradient.append(np.zeros(array.shape))
            for where in np.ndindex(array.shape):
                losses = []
                for shift in (-1e-5, 1e-5):
                    moved = array.copy()
                    moved[where] += shift
                    losses.append(loss([*parameters[:i], moved, *parameters[i + 1 :]]))
                gradient[i][where] = (losses[1] - losses[0]) / 2e-5
        setattr(
            self,
            name,
            [
                np.asarray(x)
                for x in self.adams[name].step(parameters, gradient, self.sac.learning_rate)
            ],
        )

    def gradient_step(self, batch, key):
        key_next, key_now = jax.random.split(key)
        metrics = {"temperature": self.temperature}
        future = self.expectation(self.policy, self.targets, batch.next_observation, key_next)[0]
        target = batch.reward + self.sac.discount * np.where(batch.terminated, 0, future)

        def critic_loss(critics):
            return (
                ((target - self.q(critics, batch.observation, batch.action)) ** 2 / 2)
                .mean(-1)
                .sum()
            )

        metrics["critic_loss"] = critic_loss(self.critics)
        metrics["q_value"] = self.q(self.critics, batch.observation, batch.action).mean()
        self.step("critics", critic_loss)
        if self.sac.policy_gradient == "reparameterized":
            soft, entropy = self.expectation(self.policy, self.critics, batch.observation, key_now)
            metrics |= {"policy_loss": -soft.mean(), "entropy": entropy.mean()}
            self.step(
                "policy",
                lambda policy: (
                    -self.expectation(policy, self.critics, batch.observation, key_now)[0].mean()
                ),
            )
        else:
            draws = self.drawn(self.policy, batch.observation, key_now)
            log_prob = self.score(self.policy, batch.observation, draws)
            actions = draws if self.kind == "discrete" else np.tanh(draws)
            cost = self.temperature * log_prob - self.q(
                self.critics, np.stack([batch.observation] * 2), actions
            ).min(0)
            metrics |= {"policy_loss": cost.mean(), "entropy": -log_prob.mean()}
            self.step(
                "policy",
                lambda policy: (
                    (cost - cost[::-1]) * self.score(policy, batch.observation, draws)
                ).mean(),
            )
        if self.sac.learn_temperature:
            wanted = (
                self.sac.target_entropy_fraction * math.log(4) if self.kind == "discrete" else -2
            )
            self.step("log_temperature", lambda log: log[0] * (metrics["entropy"] - wanted))
        self.targets = polyak(self.targets, self.critics, self.sac.target_rate)
        return metrics


@every_kind
@pytest.mark.parametrize(
    "setting",
    [
        pytest.param(SMALL, id="sac"),
        pytest.param(
            replace(
                SMALL, policy_gradient="score_function", num_critics=1, learn_temperature=False
            ),
            id="score_function",
            marks=pytest.mark.slow,
        ),
    ],
)
def test_gradient_steps_are_those_of_numpy(setting, kind):
    """Three in a row: all the losses, the gradients, Adam, the temperature and the targets."""
    state = fresh(setting, kind)
    slow = Slow(setting, state, kind)
    for i in range(3):
        batch, key = transitions(kind, i, 6), jax.random.key(i)
        state, metrics = gradient_step(setting, state, batch, key)
        expected = slow.gradient_step(batch, key)
        assert set(metrics) == set(expected)
        for name, value in expected.items():
            assert metrics[name] == pytest.approx(value, rel=1e-3, abs=1e-4), name
        ours = [
            x
            for net in (state.policy.network, *state.critics, *state.target_critics)
            for x in weights(net)
        ]
        for one, other in zip(ours, [*slow.policy, *slow.critics, *slow.targets], strict=True):
            np.testing.assert_allclose(one, other, rtol=2e-3, atol=2e-4)
        if setting.learn_temperature:
            assert state.log_temperature == pytest.approx(float(slow.log_temperature[0]), rel=1e-4)
        assert state.gradient_steps_taken == i + 1


@struct
class Constant:
    """A network that gives the same whatever it sees."""

    outputs: jax.Array

    def __call__(self, observation):
        return jnp.broadcast_to(self.outputs, (*observation.shape[:-1], *self.outputs.shape))


@struct
class Parabola:
    """A critic of one action: high - curvature (a - best)²."""

    curvature: float
    best: float
    high: float

    def __call__(self, inputs):
        _, action = inputs
        return self.high - self.curvature * (action - self.best) ** 2


@jax.jit
def gradients(sac, policy, state):
    """20,000 estimates of the gradient of the policy's parameters, [estimate, parameter], each of
    two observations."""
    loss = (
        sac.reparameterized_loss
        if sac.policy_gradient == "reparameterized"
        else sac.score_function_loss
    )
    batch = one_step(sac, transitions("box", 0, 2))
    batch = replace(batch, transition=replace(batch.transition, observation=jnp.zeros((2, 3))))
    slope = jax.grad(lambda policy, key: loss(policy, state, batch, key)[0])
    return jax.vmap(lambda key: slope(policy, key).network.outputs)(jax.random.split(KEY, 20_000))


def slopes(function, at):
    """By central differences."""
    return [(function(at + step) - function(at - step)) / 2e-4 for step in 1e-4 * np.eye(len(at))]


def assert_unbiased(estimates, expected):
    estimates = np.asarray(estimates, float)
    error = estimates.std(0) / math.sqrt(len(estimates))
    assert (abs(estimates.mean(0) - expected) < 4 * error + 1e-4).all() and (error < 0.05).all()


@pytest.mark.parametrize("temperature", [0.0, 0.5])
def test_both_gradients_are_on_average_that_of_the_expected_value(temperature):
    """Of E[α log π - min Q] by quadrature. A constant added to Q adds nothing, not even variance:
    the draws are baselines."""
    fixed = replace(SMALL, learn_temperature=False, initial_temperature=temperature)
    outputs = np.array([0.4, -0.7])  # mean, log standard deviation
    noise = np.linspace(-8, 8, 4001)
    density = scipy.stats.norm.pdf(noise) * (noise[1] - noise[0])

    def objective(outputs):
        u = outputs[0] + np.exp(outputs[1]) * noise
        log_prob = scipy.stats.norm.logpdf(noise) - outputs[1] - np.log(1 - np.tanh(u) ** 2)
        value = np.minimum(-2 * (np.tanh(u) + 0.3) ** 2, -((np.tanh(u) - 0.5) ** 2))
        return (density * (temperature * log_prob - value)).sum()

    expected = slopes(objective, outputs)
    assert min(np.abs(expected)) > 0.05
    policy = StochasticPolicy(
        Constant(np.float32(outputs)),
        actions_for(EnvironmentSpec(Box((3,)), Box((1,), low=-1.0, high=1.0)), -20.0),
    )
    for high in (0.0, 100.0):
        state = replace(
            fresh(fixed, "box"), critics=(Parabola(2.0, -0.3, high), Parabola(1.0, 0.5, high))
        )
        for gradient in ("reparameterized", "score_function"):
            assert_unbiased(
                gradients(replace(fixed, policy_gradient=gradient), policy, state), expected
            )


def test_the_score_of_discrete_actions_is_on_average_the_exact_gradient():
    fixed = replace(SMALL, learn_temperature=False, initial_temperature=0.5)
    logits, q = np.array([0.5, -0.3, 0.0, 1.0]), np.array([[1, 2, -1, 0.5], [0.7, 3, -0.5, 50]])

    def objective(logits):
        p = np.exp(logits) / np.exp(logits).sum()
        return (p * (0.5 * np.log(p) - q.min(0))).sum()

    expected = slopes(objective, logits)
    policy = StochasticPolicy(Constant(np.float32(logits)), actions_for(spec_of("discrete"), -20.0))
    state = replace(fresh(fixed, "discrete"), critics=tuple(Constant(np.float32(row)) for row in q))
    np.testing.assert_allclose(gradients(fixed, policy, state)[0], expected, rtol=1e-3, atol=1e-5)
    assert_unbiased(
        gradients(replace(fixed, policy_gradient="score_function"), policy, state), expected
    )


def test_without_temperature_the_target_is_the_expected_value_of_the_next_action():
    sac = OffPolicyActorCritic(hidden=(4,), discount=0.9)
    state, batch = fresh(sac, "discrete"), transitions("discrete", 0, 50)

    @jax.jit
    def judge(state):
        """The values and the logits of what follows, and the target."""
        after = batch.next_observation
        return (
            state.target_critics[0](after),
            state.policy.network(after),
            sac.estimate_target(state, one_step(sac, batch), KEY),
        )

    q, logits, target = jax.device_get(judge(state))
    p = scipy.special.softmax(logits, -1)
    expected = [
        r + 0.9 * (0 if end else sum(p[i, a] * q[i, a] for a in range(4)))
        for i, (r, end) in enumerate(zip(batch.reward, batch.terminated, strict=True))
    ]
    np.testing.assert_allclose(target, expected, rtol=1e-4, atol=1e-5)
    assert (batch.truncated & ~batch.terminated).any() and batch.terminated.any()


@pytest.mark.parametrize("rate", [1.0, 0.01])
def test_targets_move_their_share_of_the_way(rate):
    sac = replace(SMALL, target_rate=rate)
    before = fresh(sac, "box")
    after, _ = gradient_step(sac, before, transitions("box", 0, 6), KEY)
    expected = jax.tree.map(
        lambda t, q: (1 - rate) * np.asarray(t) + rate * np.asarray(q),
        before.target_critics,
        after.critics,
    )
    jax.tree.map(
        partial(np.testing.assert_allclose, rtol=1e-5, atol=1e-6), after.target_critics, expected
    )


@every_kind
def test_play_is_uniform_until_the_warmup_is_over_and_then_the_policys(kind):
    state, space = fresh(SMALL, kind), ACTIONS[kind]
    observation = np.tile(np.float32([0.3, -0.5, 0.8]), (20_000, 1))
    act = jax.jit(SAC.act, static_argnames="explore")
    choice = state.policy(observation[0])
    mode, memory = act(SMALL, state, observation, {"kept": 1}, KEY, explore=False)
    np.testing.assert_allclose(mode, np.broadcast_to(choice.mode(), mode.shape), rtol=1e-5)
    assert memory == {"kept": 1}
    for steps in (0, 11, 12):
        action, memory = jax.device_get(
            act(SMALL, replace(state, steps=np.int32(steps)), observation, (), KEY, explore=True)
        )
        assert action.shape == mode.shape and action.dtype == mode.dtype and memory == ()
        if isinstance(space, Discrete):
            p = np.full(4, 0.25) if steps < 12 else np.asarray(jax.nn.softmax(choice.logits), float)
            fit = [scipy.stats.chisquare(np.bincount(action, minlength=4), 20_000 * p / p.sum())]
        elif steps < 12:
            fit = [scipy.stats.kstest(part, scipy.stats.uniform(-1, 2).cdf) for part in action.T]
        else:
            standard = (np.arctanh(np.asarray(action, float)) - choice.mean) / jnp.exp(
                choice.log_std
            )
            fit = [scipy.stats.kstest(part, "norm") for part in standard.T]
        assert min(one.pvalue for one in fit) > 1e-4


@pytest.mark.slow
@every_kind
def test_a_held_noise_is_that_of_every_step_until_the_update(kind):
    """In warm-up and after it; two copies draw apart, and without it two steps do."""
    observation, keys = np.zeros((2, 3), np.float32), jax.random.split(jax.random.key(5), 50)
    sac = replace(SMALL, noise_per_rollout=True)
    lived = transitions(kind, 0, 3, 2)

    def play(sac, state):
        """Of each step, [step, env, ...]."""
        return jax.vmap(lambda key: sac.act(state, observation, (), key, explore=True)[0])(keys)

    @jax.jit
    def play_before_and_after_updates(state):
        def play_after(key):
            after, _ = sac.update(state, lived, key)
            return play(sac, replace(state, rollout_noise_key=after.rollout_noise_key))

        return play(sac, state), jax.vmap(play_after)(jax.random.split(KEY, 12))

    state = fresh(sac, kind)
    for steps in (0, sac.warmup_steps):
        before, after = jax.device_get(
            play_before_and_after_updates(replace(state, steps=np.int32(steps)))
        )
        held = np.concatenate([before[None], after])  # [update, step, env, ...]
        assert (held == held[:, :1]).all()
        drawn = held[:, 0]
        assert len(np.unique(drawn, axis=0)) > 5 and (drawn[:, 0] != drawn[:, 1]).any()
    plain = np.asarray(jax.jit(partial(play, SMALL))(fresh(SMALL, kind)))
    assert (plain != plain[0]).any()


@pytest.mark.slow
def test_nothing_is_learned_before_the_warmup_is_over():
    """It counts environment steps, six an update here: twelve are enough."""
    state = fresh(SMALL, "box")
    first, metrics = update(SMALL, state, transitions("box", 0, 3, 2), KEY)
    assert metrics["updates"] == 0 and first.gradient_steps_taken == 0 and first.steps == 6
    jax.tree.map(
        np.testing.assert_array_equal,
        replace(first, replay=(), steps=0),
        replace(state, replay=(), steps=0),
    )
    second, metrics = update(SMALL, first, transitions("box", 1, 3, 2), KEY)
    assert metrics["updates"] == 2 and second.gradient_steps_taken == 2 and second.steps == 12
    for before, after in ((first.policy, second.policy), (first.critics, second.critics)):
        assert all(
            (x != y).any()
            for x, y in zip(jax.tree.leaves(before), jax.tree.leaves(after), strict=True)
        )
    assert second.log_temperature != first.log_temperature


@pytest.mark.slow
def test_an_update_is_an_insert_and_gradient_steps_on_draws():
    state = replace(fresh(SMALL, "box"), steps=np.int32(100))
    state, _ = update(SMALL, state, transitions("box", 0, 3, 2), jax.random.key(1))
    newest = transitions("box", 1, 3, 2)
    after, metrics = update(SMALL, state, newest, KEY)
    ring = jax.jit(ring_buffer.insert)(state.replay, newest)
    jax.tree.map(np.testing.assert_array_equal, after.replay, ring)
    now, told = replace(state, steps=after.steps), []
    for key in jax.random.split(KEY, 2):
        key_batch, key_step = jax.random.split(key)
        now, one = gradient_step(SMALL, now, sample(ring, key_batch, 6), key_step)
        told.append(one)
    jax.tree.map(
        partial(np.testing.assert_allclose, rtol=1e-4, atol=1e-5),
        replace(after, replay=()),
        replace(now, replay=()),
    )
    assert set(metrics) == {*told[0], "updates"}
    for name in told[0]:
        assert metrics[name] == pytest.approx(
            np.mean([one[name] for one in told]), rel=1e-4, abs=1e-6
        )


def test_the_learning_rate_falls_to_nothing():
    sac, batch = replace(SMALL, learning_rate_decay=100.0), transitions("box", 0, 6)
    state = fresh(sac, "box")
    late, _ = gradient_step(sac, replace(state, steps=np.int32(100)), batch, KEY)
    jax.tree.map(
        np.testing.assert_array_equal,
        (late.policy, late.critics, late.log_temperature),
        (state.policy, state.critics, state.log_temperature),
    )
    half, whole = (
        gradient_step(sac, replace(state, steps=np.int32(steps)), batch, KEY)[0].log_temperature
        for steps in (50, 0)
    )
    assert (
        float(half - state.log_temperature)
        == pytest.approx(float(whole - state.log_temperature) / 2, rel=1e-4)
        != 0
    )


@pytest.mark.slow
def test_the_targets_start_as_a_copy_and_the_twins_apart():
    state = jax.jit(lambda: SMALL.init(KEY, spec_of("box")))()
    jax.tree.map(np.testing.assert_array_equal, state.critics, state.target_critics)
    assert (weights(state.critics[0])[0] != weights(state.critics[1])[0]).all() and len(
        state.critics
    ) == 2
    assert state.replay.inserted == state.steps == state.gradient_steps_taken == 0
    assert jnp.exp(state.log_temperature) == pytest.approx(0.3)
    assert jax.tree.map(jnp.shape, state) == jax.tree.map(jnp.shape, fresh(SMALL, "box"))


@pytest.mark.slow
@pytest.mark.parametrize(
    "action, gradient",
    [
        (Discrete(3, start=-1), "score_function"),
        (Box((2,), "int32", 0, 10), "reparameterized"),
        (Box((), "float32", -1.0, 1.0), "score_function"),
    ],
    ids=["discrete score", "integers", "scalar score"],
)
def test_trees_of_observations_are_judged_with_actions_of_every_kind(action, gradient):
    """Traced, not run. Actions are kept as the policy chose them, in real numbers, though the
    environment takes integers."""
    spec, sac = (
        EnvironmentSpec(space_from_gymnasium(OBSERVATIONS["dict"]), action, 2),
        replace(SMALL, policy_gradient=gradient),
    )
    shape, dtype = ((), "int32") if isinstance(action, Discrete) else (action.shape, "float32")
    one = replace(zeros_like_spec(spec), action=jnp.zeros(shape, dtype))
    experience = jax.tree.map(lambda x: np.zeros((3, 2, *x.shape), x.dtype), one)

    def play_and_learn(key):
        state = sac.init(key, spec)
        told, _ = sac.act(
            state, jax.tree.map(lambda x: x[0], experience.observation), (), key, explore=True
        )
        after, _ = sac.update(state, experience, key)
        return told, state, after, sample(after.replay, key, 5)

    told, state, after, kept = jax.eval_shape(play_and_learn, KEY)
    assert (told.shape, told.dtype) == ((2, *shape), dtype) and (
        kept.action.shape,
        kept.action.dtype,
    ) == ((5, *shape), dtype)
    assert jax.tree.map(lambda x: (x.shape, x.dtype), after) == jax.tree.map(
        lambda x: (x.shape, x.dtype), state
    )


@pytest.mark.slow
def test_a_box_with_bounds_here_and_there_is_acted_in_element_by_element():
    space = Box((3,), low=(-2.0, -math.inf, 0.0), high=(2.0, math.inf, math.inf))
    actions = actions_for(EnvironmentSpec(Box((3,)), space), -20.0)
    policy = StochasticPolicy(Constant(np.float32([3, 3, 3, 0, 0, 0])), actions)
    state = replace(fresh(SMALL, "box"), policy=policy, steps=np.int32(100))
    action = np.asarray(
        jax.jit(lambda key: SMALL.act(state, jnp.zeros((1000, 3)), (), key, explore=True)[0])(KEY)
    )
    assert (abs(action[:, 0]) < 1).all() and (action[:, 0] > 0).mean() > 0.99
    for part in np.asarray(action[:, 1:], float).T:
        assert scipy.stats.kstest(part, scipy.stats.norm(3, 1).cdf).pvalue > 1e-4


def test_what_does_not_fit_is_refused():
    with pytest.raises(InvalidInput, match="batch_size 300 is larger than capacity 50"):
        validate(SAC(batch_size=300, capacity=50))
    with pytest.raises(
        InvalidInput,
        match=r"capacity 100 cannot hold one rollout of 128 \(rollout_length 64 × num_envs 2\)",
    ):
        jax.eval_shape(
            lambda: SAC(capacity=100, rollout_length=64, hidden=()).init(KEY, spec_of("box"))
        )
    with pytest.raises(
        InvalidInput, match="initial_temperature is 0; .*start it above 0, or set learn_temp"
    ):
        validate(SAC(initial_temperature=0.0))
    with pytest.raises(
        InvalidInput, match="policy_gradient is 'pathwise'; choose one of reparameterized, score"
    ):
        validate(SAC(policy_gradient="pathwise"))
    for allowed in (
        SAC(),
        OffPolicyActorCritic(),
        SAC(initial_temperature=0.0, learn_temperature=False),
    ):
        validate(allowed)
    jax.vmap(lambda temperature: validate(SAC(initial_temperature=temperature)) or temperature)(
        np.float32([0, 1])
    )


# What it learns

DISCOUNT = 0.8
PROBED = SAC(
    learning_rate=5e-3,
    discount=DISCOUNT,
    hidden=(32,),
    batch_size=32,
    capacity=16_384,
    warmup_steps=1024,
    rollout_length=4,
    gradient_steps=4,
    target_rate=0.05,
    target_entropy_per_element=-0.6,
)
SETTINGS = {  # name: (algorithm, space)
    "box": (PROBED, probes.CONTINUOUS),
    "discrete": (replace(PROBED, **OffPolicyActorCritic.keywords), probes.DISCRETE),  # by the score
}
VALUES = {  # probe: {observation: value of every action}
    CONSTANT: {0: 1},
    SEEN: {-1: -1, 1: 1},
    DISCOUNTING: {0: DISCOUNT, 1: 1},
    LIMITED: {0: 1 / (1 - DISCOUNT)},
}
ITERATIONS = 600
STILL = np.float32([0])


def values_and_policy(state, observation):
    """The values by every critic, [critic, action], of both actions or of -0.6 ... 0.6; the policy
    and its mode."""
    return jax.device_get(answer(state.policy, state.critics, np.float32([observation])))


@jax.jit
def answer(policy, critics, seen):
    choice = policy(seen)
    if hasattr(choice, "logits"):
        return jnp.stack([critic(seen) for critic in critics]), choice, choice.mode()
    actions = jnp.linspace(-0.6, 0.6, 4)[:, None]
    values = jnp.stack(
        [critic((jnp.broadcast_to(seen, (4, 1)), actions))[:, 0] for critic in critics]
    )
    return values, choice, choice.mode()


@jax.jit
def entropy_of(policy):
    """A Box policy's, by 20,000 samples."""
    _, log_prob = policy(jnp.zeros((20_000, 1))).sample_and_log_prob(KEY)
    return -log_prob.mean()


def best_entropy():
    """The most that a squashed normal can have, in nats: that of the standard deviation nearest to
    uniform."""
    noise = np.linspace(-8, 8, 8001)
    density = scipy.stats.norm.pdf(noise) * (noise[1] - noise[0])
    surprise = noise**2 / 2 + math.log(2 * math.pi) / 2
    return max(
        (density * (surprise + math.log(std) - 2 * np.log(np.cosh(std * noise)))).sum()
        for std in np.linspace(0.5, 1, 51)
    )


@pytest.fixture(scope="module")
def trained():
    """A function from the name of a setting, and hyperparameters to change, to the states after
    training on every probe."""

    def states(name, **changes):
        sac, space = SETTINGS[name]
        return jax.device_get(learned(replace(sac, **changes), space, 4, ITERATIONS)[0])

    return states


@pytest.mark.system  # every step is compared with NumPy, and soft values are learned below
@pytest.mark.parametrize("name", SETTINGS)
def test_values_and_the_right_action_are_learned(trained, name):
    """Where there is nothing to choose, a temperature that is learned falls to nothing, so that the
    values are the plain ones.

    A probe cut off after five steps is worth as much as if it never were.
    """
    states = trained(name)
    for probe, values in VALUES.items():
        for observation, value in values.items():
            q, _, _ = values_and_policy(of(states, probe), observation)
            np.testing.assert_allclose(q, np.full(q.shape, value), atol=0.08 * max(1, abs(value)))
    for probe, signs in ((ACTION, {0: 1}), (BOTH, {-1: -1, 1: 1})):
        for observation, sign in signs.items():
            mode = values_and_policy(of(states, probe), observation)[2]
            assert (
                mode == (sign + 1) / 2
                if name == "discrete"
                else mode[0] == pytest.approx(sign * probes.TARGET, abs=0.08)
            )
    if name == "box":
        busy, idle = of(states, ACTION), of(states, CONSTANT)
        assert entropy_of(busy.policy) == pytest.approx(-0.6, abs=0.08)  # its target
        assert jnp.exp(idle.log_temperature) < 0.01 < jnp.exp(busy.log_temperature)


@pytest.mark.slow
def test_soft_values_of_discrete_actions_are_learned(trained):
    """With temperature 1 the policy is the softmax of the values, and log Σ exp Q what a state is
    worth."""
    states, even = trained("discrete", initial_temperature=1.0), math.log(2)
    forever = (1 + DISCOUNT * even) / (1 - DISCOUNT)
    expected = {
        CONSTANT: {0: [1, 1]},
        SEEN: {-1: [-1, -1], 1: [1, 1]},
        ACTION: {0: [-1, 1]},
        BOTH: {-1: [1, -1], 1: [-1, 1]},
        DISCOUNTING: {0: [DISCOUNT * (1 + even)] * 2, 1: [1, 1]},
        LIMITED: {0: [forever, forever]},
    }
    for probe, values in expected.items():
        for observation, value in values.items():
            q, choice, _ = values_and_policy(of(states, probe), observation)
            np.testing.assert_allclose(q, [value], atol=0.05 * max(1, abs(value[0])))
            np.testing.assert_allclose(
                scipy.special.softmax(choice.logits), scipy.special.softmax(value), atol=0.05
            )
    assert of(states, CONSTANT).policy(STILL).entropy() == pytest.approx(even, abs=0.01)


@pytest.mark.system
def test_paid_for_entropy_alone_a_squashed_policy_is_nearly_uniform(trained):
    """log 2 a dimension is that of the uniform; a normal squashed comes within a hundredth of it,
    so the temperature grows."""
    assert math.log(2) - 0.01 < best_entropy() < math.log(2)
    state = of(
        trained("box", target_entropy_per_element=math.log(2), initial_temperature=2.0), CONSTANT
    )
    assert jnp.exp(state.log_temperature) > 2
    assert entropy_of(state.policy) == pytest.approx(best_entropy(), abs=0.01)
