"""The limit of training speed: the products of a program are counted as they run."""

import jax
import jax.numpy as jnp
import numpy as np
import report
import tables
from products import seconds_of, with_counts
from products_alone import products_per_step
from run_etude import make_algorithm
from workloads import PRODUCTS_ALONE, WORKLOADS, environment_alone, limit_sides

from etude.nn.linear import linear

SQUARE = "float32[3, 3] × float32[3, 3]"


def test_products_count_as_often_as_they_run():
    """A loop of known length, one that is not, a branch; not what no output needs."""

    def function(x, times):
        def inner(x, _):
            return jax.lax.fori_loop(0, times, lambda _, x: x @ x, x), x[0] @ x[1]

        x, _ = jax.lax.scan(inner, x, length=4)
        return jax.lax.cond(times > 5, lambda x: x @ x @ x, lambda x: jax.nn.relu(x @ x), x)

    x = jnp.float32([[0, 2, 0], [0, 0, 3], [-1, 0, 0]])
    products, counting = with_counts(function, x, 0)
    assert [*map(str, products)] == [SQUARE]
    counting = jax.jit(counting)
    result, counts = counting(x, 0)
    np.testing.assert_array_equal(result, np.maximum(x @ x, 0))
    assert counts == 1
    assert counting(x, 2)[1] == 4 * 2 + 1
    assert counting(x, 6)[1] == 4 * 6 + 2


def test_a_layer_is_a_product_and_equal_products_are_one():
    function = lambda x, weight: linear(x, weight).sum() + jnp.tanh(linear(x, weight)).sum()
    x, weight = jnp.ones((2, 3)), jnp.ones((4, 3))
    products, counting = with_counts(jax.grad(function), x, weight)
    assert dict(zip(map(str, products), jax.jit(counting)(x, weight)[1].tolist(), strict=True)) == {
        "float32[2, 3] × float32[3, 4]": 1,
        "float32[2, 4] × float32[4, 3]": 2,
    }


def test_large_products_of_a_gradient_step():
    settings = WORKLOADS["sac-pendulum"].settings | {"seed": 0}
    algorithm = make_algorithm(settings["algorithm"], settings["hyperparameters"])
    counts = products_per_step(algorithm, settings)
    counts = {str(product): count for product, count in counts.items()}
    assert counts["float32[256, 256] × float32[256, 256]"] == 2 * (1 + 3 + 2) + 1 + 3
    assert counts["float32[1, 3] × float32[3, 256]"] == 1  # to act


def test_the_time_of_a_product_is_that_of_one():
    """A product of more work takes longer, which one outside of the loop would not."""
    of = lambda n: with_counts(jnp.matmul, *[jnp.ones((n, n))] * 2)[0][0]
    small, large = (min(seconds_of(of(n), 1e-3) for _ in range(3)) for n in (8, 256))
    assert 0 < 2 * small < large


def test_shares_of_limits():
    """A page tells them where the parts of the limit have been measured, and a dash elsewhere."""
    workload = WORKLOADS["dqn-cartpole"]
    rates = {side.label: [100.0] for side in [*workload.sides, *limit_sides(workload.sides)]}
    rates |= {PRODUCTS_ALONE: [200.0, 300.0], environment_alone("jax"): [1000.0]}
    sides = {
        label: {"tried": {}, "measurements": [{"rate": rate} for rate in values]}
        for label, values in rates.items()
    }
    assert tables.limit_cells("jax", sides) == ["200", "0.50"]
    del sides[environment_alone("jax")]
    section = {"sides": sides, "quick": True}
    _, headings, rows = tables.table("dqn-cartpole", section)
    column = headings.index("limit")
    assert [row[column : column + 2] for row in rows] == [["71", "1.40"]] * 2 + [["–", "–"]]


def test_the_page_is_that_of_the_results():
    page = tables.speed_page(report.read_results(report.RESULTS, "speed"))
    assert page == (report.RESULTS / "speed.md").read_text()
