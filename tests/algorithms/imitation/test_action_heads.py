"""Heads against scipy, closed forms and sums over all actions; none of them is trained here but in
the tests of the system."""

import itertools
import math
from functools import partial

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import scipy.special
import scipy.stats
from gymnasium_spaces import ACTIONS

from etude.algorithms.imitation.bc import BC
from etude.algorithms.imitation.cloning import decay_mask
from etude.algorithms.imitation.heads import diffusion, flow
from etude.algorithms.imitation.heads.action_head import Context
from etude.algorithms.imitation.heads.autoregressive import Autoregressive, bin_center, to_choices
from etude.algorithms.imitation.heads.deterministic import Deterministic
from etude.algorithms.imitation.heads.diffusion import Diffusion
from etude.algorithms.imitation.heads.direct import Direct
from etude.algorithms.imitation.heads.flow import Flow
from etude.algorithms.imitation.heads.latent import Latent
from etude.algorithms.imitation.heads.mixture import Mixture
from etude.algorithms.protocol import Outside, init_state
from etude.data.dataset import make_dataset
from etude.errors import InvalidInput
from etude.optim.averaging import EMA
from etude.spaces import Box, EnvironmentSpec, MultiDiscrete, space_from_gymnasium
from etude.struct import replace, validate

KEY = jax.random.key(0)
ARM = Box((2,), low=-1.0, high=1.0)
CHUNK, STATES, FEATURES = 3, 6, 4
BOX, BOUNDED = {"bounded", "unbounded", "float64", "integers"}, {"bounded", "float64", "integers"}
# head: the kinds of action it takes
HEADS = {
    Direct(): set(ACTIONS),
    Deterministic(): BOX,
    Mixture(components=3, min_std=0.05): BOX,
    Latent(latent_size=2, samples=3, beta=0.5, hidden=(5,)): BOX,
    Autoregressive(bins=5, units=6): BOUNDED | {"discrete", "multidiscrete", "multibinary"},
    Flow(steps=2, hidden=(5,)): BOX,
    Diffusion(steps=2, hidden=(5,)): BOUNDED,
}
every_head = pytest.mark.parametrize("head", HEADS, ids=lambda head: type(head).__name__)


# What each takes


@every_head
def test_a_head_takes_its_spaces_and_refuses_the_others_by_name(head):
    """Traced, not run."""
    context = Context(jnp.zeros((STATES, FEATURES)))

    def use(key, space):
        network = head.make(key, space, FEATURES, CHUNK, "relu")
        action = head.act(network, context, key, True)
        is_valid = jnp.ones((STATES, CHUNK), bool)
        return action, head.loss(network, context, action, is_valid, key)

    for kind in ("discrete", "multidiscrete", "multibinary", "bounded", "unbounded"):
        space = space_from_gymnasium(ACTIONS[kind], "action")
        if kind in HEADS[head]:
            action, (loss, metrics) = jax.eval_shape(partial(use, space=space), KEY)
            assert action.shape == (STATES, CHUNK, *space.zeros().shape)
            assert action.dtype == space.zeros().dtype
            assert loss.shape == () and metrics and all(x.shape == () for x in metrics.values())
        else:
            name = type(head).__name__.lower()
            with pytest.raises(InvalidInput, match=rf"head {name} takes .* are (Box|Discr|Multi)"):
                use(KEY, space)


def filled(head, space, num_features=FEATURES, chunk=CHUNK, seed=0):
    """The network of a head with random numbers, which cost less than those that it begins with."""
    make = partial(head.make, space=space, num_features=num_features, chunk=chunk)
    shapes, rng = jax.eval_shape(partial(make, activation="relu"), KEY), np.random.default_rng(seed)
    return jax.tree.map(lambda x: np.float32(rng.normal(size=x.shape) / 2), shapes)


@pytest.fixture(scope="module")
def computed():
    """By the name of each head that has a likelihood or an error: (its network, its losses on some
    chunks, and on others that differ where they do not count), the actions of three of them without
    and with noise, and the features, the chunks and what counts."""
    rng = np.random.default_rng(0)
    features = rng.normal(size=(STATES, FEATURES)).astype(np.float32)
    actions = np.clip(rng.normal(size=(STATES, CHUNK, 2)), -1, 1).astype(np.float32)
    is_valid = np.arange(CHUNK) < np.array([3, 1, 2, 3, 1, 3])[:, None]
    both = np.stack([actions, np.where(is_valid[..., None], actions, -actions)])
    heads = {type(head).__name__: head for head in HEADS if type(head) not in (Flow, Diffusion)}
    heads["Mixture of one"] = Mixture(1)
    networks = {name: filled(head, ARM) for name, head in heads.items()}

    @jax.jit
    def run(networks, key):
        context, losses = Context(features), {}
        for name, head in heads.items():
            loss = lambda actions, head=head, network=networks[name]: head.loss(
                network, context, actions, is_valid, key
            )[0]
            losses[name] = jax.vmap(loss)(both)
        acts = {
            name: [heads[name].act(networks[name], context, key, e) for e in (False, True)]
            for name in ("Direct", "Mixture")
        }
        return losses, acts

    losses, acts = jax.device_get(run(networks, KEY))
    return networks, losses, acts, (features, actions, is_valid)


def test_weight_decay_leaves_standard_deviations_and_biases_alone(computed):
    """By their names, in the networks of all heads."""
    for network in computed[0].values():
        for path, decays in jax.tree_util.tree_leaves_with_path(decay_mask(network)):
            name = path[-1].name
            assert decays == (name not in ("bias", "recurrent_bias", "log_std")), name


def test_what_does_not_count_changes_no_likelihood(computed):
    """A latent head reads it, for a chunk is one action to its encoder."""
    for head, losses in computed[1].items():
        assert np.isfinite(losses).all()
        if head != "Latent":
            assert losses[0] == pytest.approx(losses[1], rel=1e-6)


def outputs(layer, features):
    return np.float64(features) @ np.float64(layer.weight).T + layer.bias


def test_the_loss_of_a_chunk_is_that_of_its_actions_that_count(computed):
    """A normal by scipy, and the squared error, each over a list of those actions alone."""
    networks, losses, _, (features, actions, is_valid) = computed
    network = networks["Direct"]
    mean = outputs(network.layer, features).reshape(STATES, CHUNK, 2)
    density = scipy.stats.norm.logpdf(actions, mean, np.exp(network.log_std.reshape(CHUNK, 2)))
    assert losses["Direct"][0] == pytest.approx(-density.sum(-1)[is_valid].mean(), rel=1e-5)
    mean = outputs(networks["Deterministic"].layer, features).reshape(STATES, CHUNK, 2)
    expected = ((actions - mean) ** 2)[is_valid].mean()
    assert losses["Deterministic"][0] == pytest.approx(expected, rel=1e-5)


def mixture_log_prob(network, features, actions, is_valid, min_std):
    """Of each chunk, by scipy, one component after the other."""
    log_weight = scipy.special.log_softmax(outputs(network.logits, features), -1)
    mean, spread = (
        outputs(layer, features).reshape(len(features), *network.shape)
        for layer in (network.means, network.spreads)
    )
    std = min_std + np.log1p(np.exp(spread))
    components = []
    for k in range(network.shape[0]):
        density = scipy.stats.norm.logpdf(actions, mean[:, k], std[:, k]).sum(-1)
        components.append(log_weight[:, k] + (density * is_valid).sum(-1))
    return scipy.special.logsumexp(components, 0)


def test_a_mixture_weighs_normals_of_whole_chunks(computed):
    """And one of a single component is a normal."""
    networks, losses, _, (features, actions, is_valid) = computed
    log_prob = mixture_log_prob(networks["Mixture"], features, actions, is_valid, 0.05)
    assert losses["Mixture"][0] == pytest.approx(-log_prob.sum() / is_valid.sum(), rel=1e-5)
    one = networks["Mixture of one"]
    mean, spread = (
        outputs(x, features).reshape(STATES, CHUNK, 2) for x in (one.means, one.spreads)
    )
    density = scipy.stats.norm.logpdf(actions, mean, 0.01 + np.log1p(np.exp(spread)))
    expected = -density.sum(-1)[is_valid].mean()
    assert losses["Mixture of one"][0] == pytest.approx(expected, rel=1e-5)


def test_the_means_of_a_mixture_begin_apart_from_each_other():
    """And a component begins with one action for a whole chunk."""
    make = jax.jit(lambda key: Mixture(5).make(key, ARM, FEATURES, CHUNK, "relu").means.bias)
    bias = np.asarray(make(KEY)).reshape(5, CHUNK, 2)
    np.testing.assert_array_equal(bias, bias[:, :1].repeat(CHUNK, 1))
    places = np.tile([[-0.8], [-0.4], [0], [0.4], [0.8]], 2)
    np.testing.assert_allclose(np.sort(bias[:, 0], 0), places, atol=1e-6)


def test_the_likelihood_of_a_mixture_has_a_floor_and_its_slope_is_small_there():
    """On actions at a bound, with a network that does them exactly."""
    head, is_valid = Mixture(components=2, min_std=0.01), jnp.ones((STATES, 1), bool)
    action = jnp.broadcast_to(jnp.float32([1, -1]), (STATES, 1, 2))
    network = jax.tree.map(jnp.zeros_like, filled(head, ARM, chunk=1))
    bias_of = lambda network: (network.means.bias, network.spreads.bias)
    bias = np.tile(np.float32([1, -1]), 2), np.full(4, -50, np.float32)
    network = eqx.tree_at(bias_of, network, bias)
    context = Context(jnp.ones((STATES, FEATURES)))
    loss = lambda network: head.loss(network, context, action, is_valid, KEY)[0]
    value, slope = jax.jit(jax.value_and_grad(loss))(network)
    assert value == pytest.approx(2 * math.log(0.01 * math.sqrt(2 * math.pi)), rel=1e-5)
    assert np.sqrt(sum((np.asarray(x) ** 2).sum() for x in jax.tree.leaves(slope))) < 10


def test_a_latent_head_has_the_bound_summed_over_elements(computed):
    """In NumPy with the same noise: sums over actions of a chunk, their elements and those of z."""
    networks, losses, _, (features, actions, is_valid) = computed
    network = networks["Latent"]

    def mlp(network, x):
        first, last = network.layers
        return outputs(last, np.maximum(outputs(first, x), 0))

    norm = scipy.stats.norm
    mean, log_std = np.split(
        mlp(network.encoder, np.concatenate([features, actions.reshape(STATES, -1)], -1)), 2, -1
    )
    std, weights = np.exp(network.log_std).reshape(CHUNK, 2), []
    for key in jax.random.split(KEY, 3):
        z = mean + np.exp(log_std) * np.asarray(jax.random.normal(key, mean.shape))
        decoded = mlp(network.decoder, np.concatenate([features, z], -1))
        decoded = decoded.reshape(STATES, CHUNK, 2)
        density = norm.logpdf(actions, decoded, std).sum(-1)
        ratio = (norm.logpdf(z) - norm.logpdf(z, mean, np.exp(log_std))).sum(-1)
        weights.append((density * is_valid).sum(-1) + 0.5 * ratio)
    total = np.log(3) - scipy.special.logsumexp(weights, 0)
    assert losses["Latent"][0] == pytest.approx(total.sum() / is_valid.sum(), rel=1e-4)


def test_acting_without_noise_still_draws_a_mode(computed):
    """Of a mixture it is the mean of one of its components, exactly; of a normal its mean."""
    networks, _, acts, (features, *_) = computed
    quiet, noisy = acts["Mixture"]
    means = outputs(networks["Mixture"].means, features).reshape(STATES, 3, CHUNK, 2)
    distance = np.abs(quiet[:, None] - means).max((-1, -2))  # [state, component]
    assert (distance.min(-1) < 1e-5).all() and len(set(distance.argmin(-1))) > 1
    assert (np.abs(noisy[:, None] - means).max((-1, -2)).min(-1) > 1e-3).all()
    quiet, noisy = acts["Direct"]
    mean = outputs(networks["Direct"].layer, features).reshape(quiet.shape)
    np.testing.assert_allclose(quiet, mean, rtol=1e-4, atol=1e-5)
    assert (noisy != quiet).all()


# Autoregressive


@pytest.mark.parametrize(
    "space",
    [pytest.param(ARM, marks=pytest.mark.system), MultiDiscrete((2, 3), (0, 0), (2,))],
    ids=["box", "multidiscrete"],
)
def test_all_combinations_of_parts_have_a_probability_and_are_drawn_with_it(space):
    """The sum over all of them is one, and each is drawn as often as its probability says."""
    head, draws = Autoregressive(bins=5, units=6), 20_000
    sizes = (5, 5) if space is ARM else space.sizes
    every = np.array(list(itertools.product(*map(range, sizes))))  # [combination, part]

    network = filled(head, space, num_features=1, chunk=1, seed=1)
    network = replace(network, cell=jax.tree.map(lambda x: 4 * x, network.cell))

    @jax.jit
    def run(key):
        log_prob = network.log_prob(Context(jnp.ones((len(every), 1))), every.T).sum(0)
        return log_prob, head.act(network, Context(jnp.ones((draws, 1))), key, explore=False)

    log_prob, drawn = jax.device_get(run(KEY))
    assert np.exp(log_prob).sum() == pytest.approx(1, abs=1e-5)
    drawn = drawn[:, 0]
    if space is ARM:
        np.testing.assert_allclose(drawn * 2, np.round(drawn * 2), atol=1e-6)  # at the centers
        drawn = np.round(2 * (drawn + 1)).astype(int)
    shares = np.array([(drawn == combination).all(-1).mean() for combination in every])
    spread = np.sqrt(np.exp(log_prob) / draws)
    assert (np.abs(shares - np.exp(log_prob)) < 5 * spread + 1e-4).all()
    # the second part depends on the first
    table = np.exp(log_prob).reshape(sizes)
    assert np.abs(table - np.outer(table.sum(1), table.sum(0))).max() > 1e-3


@pytest.mark.parametrize("bins", [2, 5, 21])
def test_a_number_comes_back_from_its_bin_within_half_a_bin(bins):
    numbers = np.linspace(-1, 1, 1001, dtype=np.float32)[:, None]
    choice = np.asarray(to_choices(ARM, numbers, bins))
    back = np.asarray(bin_center(choice, bins))
    assert np.abs(back - numbers).max() <= 1 / (bins - 1) + 1e-6
    assert set(choice.ravel()) == set(range(bins))
    assert back[0] == -1 and back[-1] == 1


# Flow


def test_the_exact_flow_to_two_points_parts_them_in_few_steps():
    """The shares of noise that end within 0.1 of -1 or 1, which are known; one step is the mean."""
    noise = scipy.stats.norm.ppf((np.arange(20_000) + 0.5) / 20_000).astype(np.float32)

    def field(x, time):
        """E[a - ε | a_τ = x], where a is -1 or 1."""
        action = jnp.tanh(x * time / (1 - time) ** 2)
        return (action - x) / (1 - time)

    ends = jax.jit(lambda x: [flow.integrate(field, x, steps) for steps in (1, 2, 4, 8, 10)])(noise)
    shares = [(np.abs(np.abs(end) - 1) < 0.1).mean() for end in ends]
    np.testing.assert_allclose(shares, [0, 0.141, 0.893, 0.998, 1.0], atol=1e-3)
    np.testing.assert_allclose(ends[0], 0, atol=1e-5)  # the mean of both
    assert (np.sign(ends[-1]) == np.sign(noise)).all()


def test_a_line_goes_from_noise_to_the_action_with_the_velocity_that_is_learned():
    rng = np.random.default_rng(0)
    noise, action = rng.normal(size=(2, 5, 1, 2))
    for time in (0.0, 0.3, 1.0):
        place, velocity = flow.straight_line(noise, action, time)
        later, _ = flow.straight_line(noise, action, time + 0.5)
        np.testing.assert_allclose(place, noise + time * (action - noise))
        np.testing.assert_allclose((later - place) / 0.5, velocity)


# Diffusion


def test_the_schedule_is_the_cosine_of_nichol_and_dhariwal():
    signal = diffusion.cosine_schedule(100)
    angle = (np.arange(101) / 100 + 0.008) / 1.008 * math.pi / 2
    expected = np.cos(angle) ** 2 / np.cos(angle[0]) ** 2
    np.testing.assert_allclose(signal[:-1], expected[:-1], rtol=1e-4)
    assert signal[0] == 1 and 0 < signal[-1] < 1e-6 and (np.diff(signal) < 0).all()


def test_the_exact_noise_of_a_gaussian_gives_its_mean_and_deviation():
    """And that of a single action ends there, with no noise left; what is beyond ±1 is clipped."""
    mean, std, signal = 0.3, 0.2, jnp.asarray(diffusion.cosine_schedule(100))
    noise = scipy.stats.norm.ppf((np.arange(4_000) + 0.5) / 4_000).astype(np.float32)

    def expected_noise(x, time, std):
        """E[ε | a_t = x]."""
        kept = signal[time]
        variance = kept * std**2 + 1 - kept
        return jnp.sqrt(1 - kept) * (x - jnp.sqrt(kept) * mean) / variance

    def run(x):
        gaussian, point = (lambda x, t, s=s: expected_noise(x, t, s) for s in (std, 0.0))
        far = lambda x, time: jnp.zeros_like(x)
        return [
            *(diffusion.denoise(gaussian, x, 100, steps) for steps in (10, 100)),
            diffusion.denoise(point, x, 100, 10),
            diffusion.denoise(far, x, 100, 10),
        ]

    few, many, point, far = jax.jit(run)(noise)
    for told, steps in ((few, 10), (many, 100)):
        expected = 1.0  # by the factor of each step, which is linear here
        kept = np.float64(diffusion.cosine_schedule(100))[:: -100 // steps]
        for now, later in itertools.pairwise(kept):
            variance = now * std**2 + 1 - now
            of_action = np.sqrt(later * now) * std**2
            expected *= (of_action + np.sqrt((1 - later) * (1 - now))) / variance
        assert np.mean(told) == pytest.approx(mean, abs=0.003)
        assert np.std(told) == pytest.approx(expected, abs=0.003)
    assert expected == pytest.approx(std, abs=0.01)
    np.testing.assert_allclose(point, mean, atol=1e-4)
    assert np.abs(far).max() <= 1


def test_more_steps_than_degrees_of_noise_are_refused():
    with pytest.raises(InvalidInput, match="head: steps is 20, more than training_steps, 10"):
        validate(BC(head=Diffusion(steps=20, training_steps=10)))


# The average of the weights


def test_the_start_is_soon_forgotten_by_an_average():
    """Its share after 1,000 steps is 5e-09 with the power 0.75; and a constant stays itself."""

    @jax.jit
    def averaged(power):
        step = lambda average, k: (EMA(power).update(average, 0.0 * average, k), ())
        return jax.lax.scan(step, jnp.ones(1), jnp.arange(1, 1001))[0]

    expected = np.prod(1 - (1 + np.arange(1, 1001.0)) ** -0.75)
    assert averaged(0.75)[0] == pytest.approx(expected, rel=1e-2)
    assert expected == pytest.approx(5e-9, rel=0.1)
    assert EMA(0.5).update(3.0, 3.0, 7) == 3


# Trained: two modes


@pytest.mark.system
@pytest.mark.parametrize("name", ["Mixture", "Latent"])
def test_identical_points_are_fitted_to_the_floor_and_never_beyond(name):
    """For 10,000 steps at a learning rate of 0.01, without a number that is none."""
    head = Mixture(min_std=0.01) if name == "Mixture" else Latent(hidden=(8,), min_std=0.01)
    spec = EnvironmentSpec(Box((1,)), ARM, 1)
    dataset = make_dataset(
        spec,
        observations=[np.ones((17, 1))],
        actions=[np.tile([[1.0, -1.0]], (16, 1))],
        rewards=[np.zeros(16)],
        terminations=[np.arange(16) == 15],
        truncations=[np.zeros(16, bool)],
    )
    bc = BC(hidden=(8,), head=head, batch_size=16, learning_rate=1e-2, gradient_steps=500)
    outside = Outside(dataset)

    @jax.jit
    def train(key):
        state = init_state(bc, key, spec, outside)
        update = lambda state, key: bc.update(state, (), key, outside)
        return jax.lax.scan(update, state, jax.random.split(key, 20))[1]

    metrics = train(KEY)
    nll = metrics["nll" if name == "Mixture" else "nll_bound"]
    lowest = 2 * math.log(0.01 * math.sqrt(2 * math.pi))
    assert np.isfinite(nll).all() and nll.min() >= lowest - 1e-3
    assert nll[-1] == pytest.approx(lowest, abs=0.3)


@pytest.mark.system
def test_a_latent_variable_tells_two_actions_of_one_state_apart():
    """The prior, too: few of its samples lie between them, and the bound is the likelihood."""
    head, action = Latent(latent_size=2, hidden=(64, 64), min_std=0.1), np.ones((64, 1, 1))
    context, is_valid = Context(jnp.ones((64, 1))), jnp.ones((64, 1), bool)
    optimizer = optax.adam(optax.linear_schedule(3e-3, 0, 3_000))

    @jax.jit
    def train(key):
        network = head.make(key, Box((1,), low=-1.0, high=1.0), 1, 1, "relu")

        def step(carry, key):
            network, state = carry
            key_side, key_loss = jax.random.split(key)
            actions = jax.random.rademacher(key_side, (64, 1, 1), float)
            loss = lambda network: head.loss(network, context, actions, is_valid, key_loss)[0]
            updates, state = optimizer.update(jax.grad(loss)(network), state)
            return (head.constrain(optax.apply_updates(network, updates)), state), ()

        start = network, optimizer.init(network)
        (network, _), _ = jax.lax.scan(step, start, jax.random.split(key, 3_000))
        metrics = head.loss(network, context, action, is_valid, key)[1]
        return metrics, head.act(network, Context(jnp.ones((4_000, 1))), key, explore=False)

    metrics, drawn = jax.device_get(train(KEY))
    assert metrics["latent_kl"] > 0.1
    exact = math.log(2) + math.log(0.1 * math.sqrt(2 * math.pi))
    assert metrics["nll_bound"] == pytest.approx(exact, abs=0.1)
    assert (np.abs(drawn) < 0.9).mean() < 0.06
    assert (drawn > 0).mean() == pytest.approx(0.5, abs=0.05)


def share_of_mixed_signs(probability):
    """The probability of actions of six elements whose signs are not all equal, [2] * 6."""
    return probability.sum() - probability[(0,) * 6] - probability[(1,) * 6]


@pytest.mark.system
def test_six_elements_that_move_together_are_drawn_together():
    """All six are 0.5 or all are -0.5: 2 of 64 combinations of signs. Independent bins with the
    right marginals are wrong in 62 of 64 draws; bins in turn hardly ever, with 6 · 21 logits where
    a table has 21⁶."""
    independent = np.full((2,) * 6, 0.5**6)
    assert share_of_mixed_signs(independent) == 62 / 64
    head, space = Autoregressive(bins=21, units=32), Box((6,), low=-1.0, high=1.0)
    context, is_valid = Context(jnp.ones((64, 1))), jnp.ones((64, 1), bool)
    optimizer = optax.adam(optax.linear_schedule(1e-2, 0, 600))

    @jax.jit
    def train(key):
        network = head.make(key, space, 1, 1, "relu")

        def step(carry, key):
            network, state = carry
            side = jax.random.rademacher(key, (64, 1, 1), float)
            action = 0.5 * jnp.broadcast_to(side, (64, 1, 6))
            loss = lambda network: head.loss(network, context, action, is_valid, key)[0]
            updates, state = optimizer.update(jax.grad(loss)(network), state)
            return (optax.apply_updates(network, updates), state), ()

        start = network, optimizer.init(network)
        (network, _), _ = jax.lax.scan(step, start, jax.random.split(key, 600))
        return network, head.act(network, Context(jnp.ones((4_000, 1))), key, explore=False)

    network, drawn = jax.device_get(train(KEY))
    assert network.output.weight.shape[0] == 21
    signs = np.sign(drawn[:, 0])
    is_mixed = np.abs(signs.sum(-1)) != 6
    assert is_mixed.mean() <= 0.01
    assert (signs[~is_mixed, 0] > 0).mean() == pytest.approx(0.5, abs=0.05)
    np.testing.assert_allclose(np.abs(drawn[~is_mixed]).mean(), 0.5, atol=0.01)
