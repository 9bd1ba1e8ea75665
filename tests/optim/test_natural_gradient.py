"""Fisher products against explicit matrices, conjugate gradients against dense solves, and where
steps lead."""

import itertools
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.flatten_util import ravel_pytree

from etude.nn.networks import make_mlp
from etude.optim.natural_gradient import (
    backtracking_line_search,
    conjugate_gradient,
    fisher_product,
    natural_gradient_step,
)
from etude.trees import tree_axpy, tree_vdot

INPUTS = np.random.default_rng(0).normal(size=(5, 3))  # [sample, input]
# exact for polynomials up to the fifth degree
NODES, WEIGHTS = np.polynomial.hermite_e.hermegauss(3)


def choices(params, x):
    """Log probabilities of three choices."""
    return jax.nn.log_softmax(params["net"](x))


def normals(params, x):
    """Mean and log standard deviation of one number."""
    return params["net"](x)[..., 0], params["log_std"]


def kl_of_choices(old, new):
    return (jnp.exp(old) * (old - new)).sum(-1)


def kl_of_normals(old, new):
    (m, s), (n, t) = old, new
    return t - s + (jnp.exp(2 * s) + (m - n) ** 2) / (2 * jnp.exp(2 * t)) - 0.5


def scores_of_choices(params):
    """Every action's log probability [sample, action], and how likely each is."""
    log_p = choices(params, INPUTS)
    return lambda params: choices(params, INPUTS), jnp.exp(log_p)


def scores_of_normals(params):
    """The same of three actions for which sums of fourth powers are exact, as scores are of the
    second degree."""
    mean, log_std = normals(params, INPUTS)
    actions = mean[:, None] + jnp.exp(log_std) * NODES  # [sample, action]

    def log_prob(params):
        mean, log_std = normals(params, INPUTS)
        return -(((actions - mean[:, None]) / jnp.exp(log_std)) ** 2) / 2 - log_std

    return log_prob, jnp.broadcast_to(WEIGHTS / WEIGHTS.sum(), actions.shape)


KINDS = {
    "choices": (choices, kl_of_choices, scores_of_choices),
    "normals": (normals, kl_of_normals, scores_of_normals),
}
MAX_KL, ITERATIONS = np.array([1e-8, 1e-4, 1e-8, 1e-4]), np.array([60, 60, 3, 3])


@pytest.fixture(scope="module", params=["choices", pytest.param("normals", marks=pytest.mark.slow)])
def policy(request):
    """A small policy: its explicit Fisher matrix by every action's score, and what the functions
    say, in float64."""
    head, kl, scores = KINDS[request.param]
    with jax.enable_x64(True):
        params = {"net": make_mlp(jax.random.key(0), (3, 4, 3), "tanh"), "log_std": jnp.array(-0.3)}
        flat, unravel = ravel_pytree(params)
        vectors = np.random.default_rng(1).normal(size=(3, flat.size))

        def mean_kl(params, old, turned=False):
            new = head(params, INPUTS)
            return (kl(new, old) if turned else kl(old, new)).mean()

        @jax.jit
        def told():
            old = head(params, INPUTS)
            log_prob, probability = scores(params)
            # [sample, action, parameter]
            score = jax.jacobian(lambda x: log_prob(unravel(x)))(flat)
            fisher = jnp.einsum("na,nai,naj->ij", probability, score, score) / len(INPUTS)
            gradient = unravel(
                jnp.einsum(
                    "na,nai,na->i", probability, score, jnp.asarray(vectors[0, :15]).reshape(5, 3)
                )
            )
            products = [
                jax.vmap(lambda v, product=product: ravel_pytree(product(unravel(v)))[0])(vectors)
                for product in (
                    fisher_product(partial(mean_kl, old=old, turned=turned), params, 0.1)
                    for turned in (False, True)
                )
            ]
            product = fisher_product(partial(mean_kl, old=old), params)

            def step(max_kl, iterations):
                direction, size = natural_gradient_step(
                    gradient, product, max_kl, iterations, 1e-10
                )
                moved = tree_axpy(params, size, direction)
                return ravel_pytree(direction)[0], size, mean_kl(moved, old)

            return fisher, ravel_pytree(gradient)[0], products, jax.vmap(step)(MAX_KL, ITERATIONS)

        return vectors, *jax.device_get(told())


def test_products_are_those_of_the_explicit_fisher_matrix(policy):
    """Which is the expectation over all actions of the score times itself; the divergence may be
    either way round."""
    vectors, fisher, _, products, _ = policy
    assert np.linalg.matrix_rank(fisher) >= 6
    for product in products:
        np.testing.assert_allclose(product, vectors @ fisher + 0.1 * vectors, rtol=1e-9, atol=1e-12)


def test_the_natural_step_is_the_closed_form(policy):
    """F⁻¹ g where F can be inverted, and √(2 ε / gᵀ F⁻¹ g) of it."""
    _, fisher, gradient, _, (direction, size, _) = policy
    exact = np.linalg.lstsq(fisher, gradient, rcond=1e-10)[0]
    np.testing.assert_allclose(
        fisher @ direction[0], gradient, rtol=1e-6, atol=1e-8 * abs(gradient).max()
    )
    np.testing.assert_allclose(gradient @ direction[0], gradient @ exact, rtol=1e-8)
    np.testing.assert_allclose(size[:2], np.sqrt(2 * MAX_KL[:2] / (gradient @ exact)), rtol=1e-8)


def test_the_step_moves_the_policy_by_what_is_allowed(policy):
    """To second order in the step, also when conjugate gradients are stopped after three
    iterations."""
    _, fisher, gradient, _, (direction, size, kl) = policy
    np.testing.assert_allclose(kl[::2], 1e-8, rtol=0.003)
    np.testing.assert_allclose(kl[1::2], 1e-4, rtol=0.1)
    # three were not enough
    assert np.linalg.norm(fisher @ direction[2] - gradient) > 0.01 * np.linalg.norm(gradient)
    np.testing.assert_array_equal(direction[::2], direction[1::2])
    np.testing.assert_allclose(size[1::2] / size[::2], 100)


@jax.jit
@partial(jax.vmap, in_axes=(None, 0, None))
def solve(matrix, b, iterations):
    tree = {"a": b[:2], "b": (b[2:].reshape(2, 2), jnp.zeros(0))}

    def product(tree):
        image = matrix @ jnp.concatenate([tree["a"], tree["b"][0].ravel()])
        return {"a": image[:2], "b": (image[2:].reshape(2, 2), tree["b"][1])}

    x = conjugate_gradient(product, tree, iterations, 1e-6)
    return jnp.concatenate([x["a"], x["b"][0].ravel()])


def test_conjugate_gradients_solve_what_a_dense_solver_solves():
    """Within as many iterations as there are unknowns; before, each comes nearer in the matrix's
    norm."""
    rng = np.random.default_rng(0)
    root, b = (
        rng.normal(size=(6, 6)),
        np.concatenate([rng.normal(size=(3, 6)), np.zeros((1, 6))]).astype(np.float32),
    )
    matrix = (root @ root.T + np.eye(6)).astype(np.float32)
    exact = np.linalg.solve(matrix.astype(float), b.astype(float).T).T
    np.testing.assert_allclose(solve(matrix, b, 10), exact, rtol=1e-3, atol=1e-4)
    np.testing.assert_array_equal(solve(matrix, b, 10)[3], 0)  # of nothing, nothing
    errors = [np.asarray(solve(matrix, b, i), float)[0] - exact[0] for i in range(7)]
    lengths = [error @ matrix @ error for error in errors]
    np.testing.assert_allclose(errors[0], -exact[0], rtol=1e-6)  # begun at zero
    assert all(after < 0.9 * before for before, after in itertools.pairwise(lengths)), lengths
    reference, _ = jax.scipy.sparse.linalg.cg(lambda x: matrix @ x, b[0], maxiter=3, tol=0)
    np.testing.assert_allclose(solve(matrix, b, 3)[0], reference, rtol=1e-4, atol=1e-5)


def test_conjugate_gradients_stop_when_they_are_near_enough():
    """With two different eigenvalues two iterations are all it takes: more change nothing, nor do
    they make it no number."""
    matrix = np.diag(np.float32([1, 1, 1, 3, 3, 3]))
    b = np.float32([[1, 2, 3, 4, 5, 6]])
    np.testing.assert_allclose(solve(matrix, b, 2), b / np.diag(matrix), rtol=1e-5)
    np.testing.assert_allclose(solve(matrix, b, 1000), b / np.diag(matrix), rtol=1e-5)
    # a matrix that has no answer
    np.testing.assert_array_equal(solve(np.zeros((6, 6), np.float32), b, 5), np.zeros((1, 6)))
    counted = lambda tolerance: conjugate_gradient(
        lambda x: x * jnp.float32([1, 2, 4]), jnp.float32([1, 1, 1]), 50, tolerance
    )
    np.testing.assert_array_equal(counted(1.0), 0)  # already near enough
    np.testing.assert_allclose(counted(0.0), [1, 0.5, 0.25], rtol=1e-6)


def test_no_gradient_is_no_step():
    direction, size = natural_gradient_step({"a": jnp.zeros(3)}, lambda x: x, 0.01)
    np.testing.assert_array_equal(direction["a"], 0)
    assert size == 0


def test_trees_are_vectors():
    x, y = (
        {"a": jnp.arange(2.0), "b": [jnp.ones((2, 2))]},
        {"a": jnp.ones(2), "b": [jnp.full((2, 2), 3.0)]},
    )
    assert tree_vdot(x, y) == 13
    np.testing.assert_array_equal(tree_axpy(x, 2.0, y)["a"], [2, 3])


PARAMS, STEP = (
    {"a": np.float32([1, 2]), "b": np.float32(-3)},
    {"a": np.float32([8, 0]), "b": np.float32(4)},
)


@jax.jit
@partial(jax.vmap, in_axes=(0, None, None))
def searched(limit, shrink, attempts):
    """Accepted is what moves `a` by no more than the limit, and not by less than a quarter of
    it."""
    return backtracking_line_search(
        lambda params: (abs(params["a"][0] - 1) <= limit) & (params["a"][0] - 1 >= limit / 4),
        PARAMS,
        STEP,
        shrink,
        attempts,
    )


def test_the_first_step_that_is_accepted_is_taken():
    params, tries, accepted = searched(jnp.float32([100, 9, 7, 1, 0.9, 0.01]), 0.5, 5)
    np.testing.assert_array_equal(accepted, [False, True, True, True, True, False])
    np.testing.assert_array_equal(tries, [5, 1, 2, 4, 5, 5])
    scale = np.float32([0, 1, 1 / 2, 1 / 8, 1 / 16, 0])
    np.testing.assert_array_equal(params["a"], np.stack([1 + 8 * scale, np.full(6, 2)], -1))
    np.testing.assert_array_equal(params["b"], -3 + 4 * scale)


def test_a_failed_search_returns_the_old():
    """To the last bit, also after a step that was no number."""
    for attempts in (0, 3):
        params, tries, accepted = searched(jnp.float32([0.01]), 0.5, attempts)
        assert not accepted[0] and tries[0] == attempts
        jax.tree.map(np.testing.assert_array_equal, jax.tree.map(lambda x: x[0], params), PARAMS)
    params, _, accepted = backtracking_line_search(
        lambda x: x > 0, jnp.float32(1), jnp.float32(np.nan), attempts=2
    )
    assert params == 1 and not accepted


def test_shrinking_is_by_the_factor_given():
    params, tries, _ = searched(jnp.float32([7]), 0.75, 9)
    assert tries[0] == 2 and params["a"][0, 0] == 7
