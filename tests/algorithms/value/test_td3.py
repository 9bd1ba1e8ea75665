"""TD3 and DDPG: whole updates against NumPy, the target and the policy gradient apart, and what
they learn where it is known."""

import dataclasses
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import rlax
from batches import one_step, sample
from filling import filled
from oracles import (
    Adam,
    adam_moment,
    experience,
    mlp_backward,
    mlp_forward,
    polyak,
    reals,
    weights_of,
)

from etude.algorithms.value.td3 import DDPG, TD3, TD3State
from etude.data.replay import ring_buffer
from etude.data.transition import Transition
from etude.errors import InvalidInput
from etude.spaces import Box, EnvironmentSpec
from etude.struct import replace, validate

KEY = jax.random.key(0)
SPEC = EnvironmentSpec(Box((3,)), Box((2,), low=(-2.0, 0.0), high=(2.0, 10.0)), 2)
SIZES = {
    "hidden": (5,),
    "batch_size": 6,
    "capacity": 24,
    "rollout_length": 3,
    "warmup_steps": 12,
    "gradient_steps": 2,
}
# floats are traced: with others it is still the same program
SMALL = TD3(**SIZES, policy_interval=3)


def fresh(td3, seed=0, spec=SPEC):
    """The state before the first step, but with targets that differ from what they follow."""
    zeros = jax.tree.map(
        lambda x: np.zeros(x.shape, x.dtype), jax.eval_shape(partial(td3.init, spec=spec), KEY)
    )
    names = ("policy", "critics", "target_policy", "target_critics")
    drawn = {name: filled(partial(getattr, zeros, name), seed + i) for i, name in enumerate(names)}
    return replace(zeros, **drawn)


def transitions(seed, *leading, scale=1.0):
    return experience(seed, *leading, action=reals(2), reward=(0.0, scale))


@jax.jit
def update(td3, state, experience, key):
    return td3.update(state, experience, key)


def weights(net):
    return weights_of(net.head)


def networks_of(state):
    return [
        weights(state.policy.network),
        *map(weights, state.critics),
        weights(state.target_policy.network),
        *map(weights, state.target_critics),
    ]


class Slow:
    """One hidden layer in every network, their gradients and Adam, written out in float64."""

    def __init__(self, state):
        self.policy, *rest = networks_of(state)
        n = len(state.critics)
        self.critics, self.target_policy, self.target_critics = rest[:n], rest[n], rest[n + 1 :]
        self.policy_adam, self.critic_adams = Adam(), [Adam() for _ in range(n)]
        self.updates, self.policy_loss = 0, 0.0

    def learn(self, td3, batch, noise):
        """Algorithm 1 of the paper, lines 6 to 14: (loss of the critics, their mean value)."""
        size, most = len(batch.reward), td3.target_noise_clip
        noise = np.clip(td3.target_noise * np.asarray(noise, float), -most, most)
        future = np.clip(
            np.tanh(mlp_forward(self.target_policy, batch.next_observation)[1]) + noise, -1, 1
        )
        ahead = np.concatenate([batch.next_observation, future], -1)
        judged = np.min([mlp_forward(net, ahead)[1][:, 0] for net in self.target_critics], 0)
        target = batch.reward + td3.discount * np.where(batch.terminated, 0, judged)
        both, losses, values = np.concatenate([batch.observation, batch.action], -1), [], []
        for i, net in enumerate(self.critics):
            hidden, value = mlp_forward(net, both)
            error = target - value[:, 0]
            losses.append((error**2 / 2).mean())
            values.append(value.mean())
            gradient, _ = mlp_backward(net, both, hidden, -error[:, None] / size)
            self.critics[i] = self.critic_adams[i].step(net, gradient, td3.learning_rate)
        self.updates += 1
        if self.updates % td3.policy_interval == 0:
            self.move(td3, batch)
        return sum(losses), np.mean(values)

    def move(self, td3, batch):
        size = len(batch.reward)
        hidden, raw = mlp_forward(self.policy, batch.observation)
        action = np.tanh(raw)
        both = np.concatenate([batch.observation, action], -1)
        critic_hidden, value = mlp_forward(self.critics[0], both)
        self.policy_loss = -value.mean()
        _, into = mlp_backward(self.critics[0], both, critic_hidden, np.full((size, 1), -1 / size))
        gradient, _ = mlp_backward(
            self.policy, batch.observation, hidden, into[:, 3:] * (1 - action**2)
        )
        self.policy = self.policy_adam.step(self.policy, gradient, td3.learning_rate)
        self.target_policy, *self.target_critics = (
            polyak(target, net, td3.target_rate)
            for target, net in zip(
                [self.target_policy, *self.target_critics],
                [self.policy, *self.critics],
                strict=True,
            )
        )


@pytest.mark.parametrize(
    "made",
    [pytest.param(SMALL, id="td3"), pytest.param(DDPG(**SIZES), id="ddpg", marks=pytest.mark.slow)],
)
def test_updates_are_those_of_numpy(made):
    """Five of two gradient steps each, over moves of the policy and the targets, with the noise
    held at its bounds."""
    td3 = replace(made, learning_rate=0.03, discount=0.9, target_rate=0.2, target_noise_clip=0.25)
    state = replace(fresh(td3), steps=np.int32(12))
    slow = Slow(state)
    for i in range(5):
        before, state, told = (
            state,
            *update(td3, state, transitions(i, 3, 2, scale=2.0), jax.random.key(i)),
        )
        losses = []
        for key in jax.random.split(jax.random.key(i), 2):
            key_batch, key_noise = jax.random.split(key)
            batch = jax.tree.map(np.asarray, sample(state.replay, key_batch, 6))
            losses.append(
                (*slow.learn(td3, batch, jax.random.normal(key_noise, (6, 2))), slow.policy_loss)
            )
        expected = dict(
            zip(("critic_loss", "q_value", "policy_loss"), np.mean(losses, 0), strict=True)
        ) | {"updates": 2}
        assert {name: float(value) for name, value in told.items()} == pytest.approx(
            expected, rel=1e-3, abs=1e-5
        )
        ours = networks_of(state)
        theirs = [slow.policy, *slow.critics, slow.target_policy, *slow.target_critics]
        for one, other in zip(ours, theirs, strict=True):
            jax.tree.map(partial(np.testing.assert_allclose, rtol=1e-3, atol=1e-4), one, other)
        assert (
            state.gradient_steps_taken == before.gradient_steps_taken + 2 == slow.updates
            and state.steps == before.steps + 6
        )
    assert slow.policy_adam.count == 10 // td3.policy_interval


def with_critics(*critics, action=0.0):
    """A state whose target policy always does `action`, judged by these functions of its first
    element."""
    functions = tuple((lambda pair, critic=critic: critic(pair[1][..., :1])) for critic in critics)
    empty = TD3State(**dict.fromkeys(field.name for field in dataclasses.fields(TD3State)))
    return replace(
        empty,
        target_critics=functions,
        target_policy=lambda observation: jnp.full((*observation.shape[:-1], 2), action),
    )


def future(td3, state, n=20_000):
    """What the bootstrap is worth, [n], when nothing is earned and nothing ends."""
    none = np.zeros(n, bool)
    batch = Transition(
        np.zeros((n, 3)), np.zeros((n, 2)), np.zeros(n, np.float32), np.zeros((n, 3)), none, none
    )
    return np.asarray(td3.estimate_target(state, one_step(td3, batch), KEY)) / 0.99


def test_the_noise_of_the_target_has_its_spread_and_its_bounds():
    itself = with_critics(lambda a: a)
    wide = future(replace(SMALL, target_noise=5.0, target_noise_clip=0.3), itself)
    np.testing.assert_allclose([wide.min(), wide.max()], [-0.3, 0.3], rtol=1e-6)
    assert 0 < (abs(wide) < 0.299).mean() < 0.1  # and is not always there
    narrow = future(replace(SMALL, target_noise=0.1, target_noise_clip=10.0), itself)
    assert narrow.std() == pytest.approx(0.1, rel=0.02) and narrow.mean() == pytest.approx(
        0, abs=0.003
    )
    edge = future(
        replace(SMALL, target_noise=0.5, target_noise_clip=0.4),
        with_critics(lambda a: a, action=0.9),
    )
    # no action leaves [-1, 1]
    np.testing.assert_allclose([edge.min(), edge.max()], [0.5, 1.0], rtol=1e-6)


def test_the_least_of_the_critics_is_believed():
    noisy = replace(SMALL, target_noise=5.0, target_noise_clip=0.3)
    alone, twins = (
        future(noisy, with_critics(lambda a: a)),
        future(noisy, with_critics(lambda a: a, lambda a: -a)),
    )
    np.testing.assert_allclose(twins, -abs(alone), rtol=1e-6)
    three = future(noisy, with_critics(lambda a: a, lambda a: -a, lambda a: 0 * a - 1))
    np.testing.assert_allclose(three, -1, rtol=1e-6)


def test_without_noise_and_twins_the_target_is_the_plain_one():
    ddpg, batch = DDPG(**SIZES, discount=0.9), transitions(0, 50)
    state = fresh(ddpg)
    estimate = jax.jit(
        lambda td3, state, batch, key: td3.estimate_target(state, one_step(td3, batch), key)
    )
    action = np.tanh(mlp_forward(weights(state.target_policy.network), batch.next_observation)[1])
    value = mlp_forward(
        weights(state.target_critics[0]), np.concatenate([batch.next_observation, action], -1)
    )[1][:, 0]
    plain = batch.reward + 0.9 * (1 - batch.terminated) * value
    np.testing.assert_allclose(estimate(ddpg, state, batch, KEY), plain, rtol=1e-5, atol=1e-6)
    smoothed = np.asarray(estimate(replace(ddpg, target_noise=0.2), state, batch, KEY))
    np.testing.assert_array_equal(smoothed[batch.terminated], batch.reward[batch.terminated])
    assert (smoothed[~batch.terminated] != plain[~batch.terminated]).all()
    held = estimate(replace(ddpg, target_noise=0.2, target_noise_clip=0.0), state, batch, KEY)
    np.testing.assert_allclose(held, plain, rtol=1e-5, atol=1e-6)
    assert batch.truncated[~batch.terminated].any()  # which stops nothing


@pytest.mark.slow
def test_the_policy_gradient_is_that_of_rlax():
    """Adam's first moment after one step is a tenth of the gradient that it was given."""
    state, batch = fresh(SMALL), transitions(0, 6)

    def loss(policy):
        action = policy(batch.observation)
        slope = jax.grad(lambda action: state.critics[0]((batch.observation, action)).sum())(action)
        # it is a mean over the two elements
        return 2 * jax.vmap(rlax.dpg_loss)(action, slope).mean()

    expected = jax.jit(jax.grad(loss))(state.policy)
    after = jax.jit(SMALL.update_policy)(state, one_step(SMALL, batch))
    moment = adam_moment(after.policy_opt_state)
    tenth = jax.tree.map(lambda g: 0.1 * np.asarray(g), expected)
    jax.tree.map(partial(np.testing.assert_allclose, rtol=1e-4, atol=1e-8), moment, tenth)
    assert optimized(moment) > 0.01
    other = replace(state, critics=(state.critics[0], state.target_critics[0]))
    jax.tree.map(
        np.testing.assert_array_equal,
        jax.jit(SMALL.update_policy)(other, one_step(SMALL, batch)).policy,
        after.policy,
    )


def optimized(tree):
    return max(float(abs(np.asarray(x)).max()) for x in jax.tree.leaves(tree))


def test_the_policy_gradient_spends_nothing_on_the_critics_weights():
    """No array of the shape of a critic's first weights is computed, where fitting the critics
    computes one."""
    state, batch, shape = fresh(SMALL), one_step(SMALL, transitions(0, 6)), (5, 3 + 2)
    assert (
        state.critics[0].head.layers[0].weight.shape
        == shape
        not in {leaf.shape for leaf in jax.tree.leaves(state.policy)}
    )

    def computed(function, *arguments):
        return {
            atom.aval.shape
            for equation in jax.make_jaxpr(function)(*arguments).jaxpr.eqns
            for atom in equation.outvars
        }

    assert shape not in computed(SMALL.update_policy, state, batch)
    assert shape in computed(SMALL.update_critics, state, batch, KEY)


def same(one, other):
    return all(jax.tree.leaves(jax.tree.map(np.array_equal, one, other)))


def test_policy_and_targets_move_only_when_they_are_due():
    """Two gradient steps an update, a move every three: the loss of the policy counts until the
    next."""
    state, losses = replace(fresh(SMALL), steps=np.int32(12)), []
    for i in range(5):
        before, state, metrics = (
            state,
            *update(SMALL, state, transitions(i, 3, 2), jax.random.key(i)),
        )
        losses.append(float(metrics["policy_loss"]))
        assert not same(before.critics, state.critics) and state.gradient_steps_taken == 2 * i + 2
        for name in ("policy", "target_policy", "target_critics", "policy_opt_state"):
            assert same(getattr(before, name), getattr(state, name)) == (i in (0, 3)), (name, i)
    assert losses[0] == 0 != losses[1] != losses[3]
    # of the moves before the third and the sixth
    assert losses[2] == pytest.approx((losses[1] + losses[3]) / 2, rel=1e-5)


def test_ddpg_is_td3_without_its_three_additions():
    plain, ours = DDPG(), TD3()
    told = {
        field.name: getattr(plain, field.name)
        for field in dataclasses.fields(TD3)
        if getattr(plain, field.name) != getattr(ours, field.name)
    }
    assert type(plain) is TD3 and told == {
        "num_critics": 1,
        "policy_interval": 1,
        "target_noise": 0.0,
    }
    assert len(fresh(DDPG(**SIZES)).critics) == 1 and len(fresh(SMALL).critics) == 2


@pytest.mark.parametrize("rate", [0.01, 1.0])
def test_targets_move_their_share_of_the_way(rate):
    before = fresh(SMALL)
    after = jax.jit(TD3.update_targets)(replace(SMALL, target_rate=rate), before)
    for target, followed in (("target_policy", "policy"), ("target_critics", "critics")):
        expected = jax.tree.map(
            lambda t, q: (1 - rate) * np.asarray(t) + rate * np.asarray(q),
            getattr(before, target),
            getattr(before, followed),
        )
        jax.tree.map(
            partial(np.testing.assert_allclose, rtol=1e-5, atol=1e-7),
            getattr(after, target),
            expected,
        )
        # to the last bit
        assert same(getattr(after, target), getattr(before, followed)) == (rate == 1)
        assert same(getattr(after, followed), getattr(before, followed))


def test_play_is_uniform_while_warming_up_and_noisy_after():
    td3 = replace(SMALL, exploration_noise=0.2)
    observation = np.tile(np.random.default_rng(0).normal(size=3).astype(np.float32), (20_000, 1))
    state = fresh(td3)
    act = jax.jit(TD3.act, static_argnames="explore")
    greedy, memory = jax.device_get(act(td3, state, observation, {"kept": 1}, KEY, explore=False))
    expected = np.tanh(mlp_forward(weights(state.policy.network), observation)[1])
    np.testing.assert_allclose(greedy, expected, rtol=1e-4, atol=1e-6)
    assert memory == {"kept": 1} and (abs(expected) < 0.4).all()
    warm, memory = jax.device_get(
        act(td3, replace(state, steps=np.int32(11)), observation, (), KEY, explore=True)
    )
    assert memory == () and warm.shape == (20_000, 2) and (abs(warm) <= 1).all()
    for element in warm.T:
        np.testing.assert_allclose(np.histogram(element, 10, (-1, 1))[0], 2000, atol=200)
    assert abs(np.corrcoef(warm.T)[0, 1]) < 0.03
    after, _ = jax.device_get(
        act(td3, replace(state, steps=np.int32(12)), observation, (), KEY, explore=True)
    )
    np.testing.assert_allclose((after - greedy).std(0), 0.2, rtol=0.03)
    np.testing.assert_allclose((after - greedy).mean(0), 0, atol=0.005)
    wild, _ = act(
        replace(td3, exploration_noise=9.0),
        replace(state, steps=np.int32(12)),
        observation,
        (),
        KEY,
        explore=True,
    )
    assert wild.min() == -1 and wild.max() == 1


def test_nothing_is_learned_before_the_warmup_is_over():
    """It counts environment steps, six an update here: twelve are enough."""
    state = fresh(SMALL)
    first, metrics = update(SMALL, state, transitions(0, 3, 2), KEY)
    assert metrics["updates"] == 0 and first.gradient_steps_taken == 0 and first.steps == 6
    assert same(replace(state, replay=(), steps=()), replace(first, replay=(), steps=()))
    second, metrics = update(SMALL, first, transitions(1, 3, 2), KEY)
    assert metrics["updates"] == 2 and second.gradient_steps_taken == 2 and second.steps == 12
    assert not same(second.critics, first.critics)


@pytest.mark.slow
def test_targets_start_as_copies_and_twins_apart():
    state = SMALL.init(KEY, SPEC)
    assert same(state.policy, state.target_policy) and same(state.critics, state.target_critics)
    assert (weights(state.critics[0])[0] != weights(state.critics[1])[0]).all()
    assert (
        state.replay.inserted == state.steps == state.gradient_steps_taken == state.policy_loss == 0
    )


@pytest.mark.slow
@pytest.mark.parametrize(
    "space", [Box((), low=-1.0, high=1.0), Box((4, 4), "uint8", 0, 255)], ids=str
)
def test_actions_of_every_shape_are_real_numbers(space):
    """Whole ones too: the replay keeps what the policy chose, and the environment gets it
    rounded."""
    spec = replace(SPEC, action=space)
    state = fresh(SMALL, spec=spec)
    observation = np.ones((2, 3), np.float32)
    action, _ = jax.jit(TD3.act, static_argnames="explore")(
        SMALL, replace(state, steps=np.int32(99)), observation, (), KEY, explore=True
    )
    assert action.shape == (2, *space.shape) and ((abs(action) > 0) & (abs(action) < 1)).any()
    lived = Transition(
        observation, action, np.zeros(2, np.float32), observation, *np.zeros((2, 2), bool)
    )
    lived = jax.tree.map(lambda x: jnp.stack([x] * 3), lived)
    np.testing.assert_array_equal(ring_buffer.insert(state.replay, lived).storage.action[0], action)
    after, _ = jax.eval_shape(SMALL.update, state, lived, KEY)
    assert jax.tree.map(lambda x: (x.shape, x.dtype), after) == jax.tree.map(
        lambda x: (x.shape, x.dtype), state
    )


def test_sizes_that_do_not_fit_are_refused():
    with pytest.raises(InvalidInput, match="batch_size 100 is larger than capacity 50"):
        validate(TD3(batch_size=100, capacity=50))
    with pytest.raises(
        InvalidInput,
        match=r"capacity 100 cannot hold one rollout of 128 \(rollout_length 64 × num_envs 2\)",
    ):
        jax.eval_shape(
            partial(TD3(capacity=100, rollout_length=64, hidden=()).init, spec=SPEC), KEY
        )
    with pytest.raises(InvalidInput, match="critics is 0; it must be at least 1"):
        validate(TD3(num_critics=0))
