"""The matrix products and convolutions of a JAX function: how often each runs, and its time."""

import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.extend.core import ClosedJaxpr, Jaxpr, Literal
from jax.interpreters.partial_eval import dce_jaxpr

PRODUCTS = ("dot_general", "conv_general_dilated")
LINEAR = "linear"  # the product of a layer, a primitive of etude
CALLS = (LINEAR, "jit", "custom_jvp_call", "custom_vjp_call", "custom_vmap_call")
SMALL = 2**16  # bytes of operands and result


class Product(NamedTuple):
    """A matrix product, or a convolution, of two arrays of known shapes."""

    primitive: Any
    operands: tuple[jax.ShapeDtypeStruct, ...]
    parameters: tuple[tuple[str, Any], ...]  # such as the dimension numbers

    def compute(self, *operands: jax.Array) -> jax.Array:
        return self.primitive.bind(*operands, **dict(self.parameters))

    def __str__(self) -> str:
        return " × ".join(f"{x.dtype}{[*x.shape]}" for x in self.operands)


def with_counts(
    function: Callable[..., Any], *arguments: Any
) -> tuple[list[Product], Callable[..., Any]]:
    """The distinct products of `function`, and a function that also counts how often each runs.

    The second returns (what `function` returns, int32 [product]). It counts while it runs, for only
    then is known which branch of a `cond` is taken and how often a `while` is repeated. As in a
    program that XLA has compiled, what no output needs is not counted, and what is computed twice
    from the same inputs counts once. The condition of a `while` is left out.

    `arguments` may be abstract: the two functions are for arguments of the same shapes.
    """
    program, result = jax.make_jaxpr(function, return_shape=True)(*arguments)
    live, _ = dce_jaxpr(program.jaxpr, True, instantiate=True)
    program = ClosedJaxpr(live, program.consts)
    products = list(dict.fromkeys(products_of(program)))

    def counting(*arguments):
        outputs, counts = run_counting(program, jax.tree.leaves(arguments), products)
        return jax.tree.unflatten(jax.tree.structure(result), outputs), counts

    return products, counting


def products_of(program: ClosedJaxpr) -> Iterator[Product]:
    """The products of a program, as often as they are written in it."""
    for equation in program.jaxpr.eqns:
        if equation.primitive.name in PRODUCTS:
            yield product_of(equation)
        for part in programs_in(equation):
            yield from products_of(part)


def product_of(equation: Any) -> Product:
    operands = tuple(jax.ShapeDtypeStruct(v.aval.shape, v.aval.dtype) for v in equation.invars)
    return Product(equation.primitive, operands, tuple(sorted(equation.params.items())))


def programs_in(equation: Any) -> list[ClosedJaxpr]:
    """The programs that an equation runs: bodies of loops, branches, calls."""
    if equation.primitive.name == LINEAR:
        return [jax.make_jaxpr(equation.primitive.impl)(*(v.aval for v in equation.invars))]
    return [
        ClosedJaxpr(part, ()) if isinstance(part, Jaxpr) else part
        for value in equation.params.values()
        for part in (value if isinstance(value, tuple) else (value,))
        if isinstance(part, Jaxpr | ClosedJaxpr)
    ]


def run_counting(
    program: ClosedJaxpr,
    arguments: Sequence[Any],
    products: list[Product],
    known: dict[Any, Any] | None = None,
) -> tuple[list[Any], jax.Array]:
    """Return (the outputs of a program, how often each of `products` ran).

    What has been computed from the same inputs before is taken from `known`.
    """
    known, jaxpr = {} if known is None else known, program.jaxpr
    values = dict(
        zip((*jaxpr.constvars, *jaxpr.invars), (*program.consts, *arguments), strict=True)
    )
    read = lambda variable: variable.val if isinstance(variable, Literal) else values[variable]
    counts = jnp.zeros(len(products), jnp.int32)
    for equation in jaxpr.eqns:
        inputs, parts = [read(variable) for variable in equation.invars], programs_in(equation)
        name, key = equation.primitive.name, identity(equation, inputs)
        if name in CALLS:
            outputs, more = run_counting(parts[0], inputs, products, known)
            counts = counts + more
        elif any([*products_of(part)] for part in parts):
            outputs, more = run_branches_counting(equation, parts, inputs, products)
            counts = counts + more
        elif key in known:
            outputs, _ = known[key]
        else:
            outputs = run_equation(equation, inputs)
            known[key] = outputs, inputs  # the inputs too, so that their ids stay theirs
            if name in PRODUCTS:
                counts = counts.at[products.index(product_of(equation))].add(1)
        values.update(zip(equation.outvars, outputs, strict=True))
    return [read(variable) for variable in jaxpr.outvars], counts


def identity(equation: Any, inputs: list[Any]) -> Any:
    """A key that is equal for equations that compute the same from the same inputs."""
    operands = [
        (str(variable.aval), np.asarray(x).item()) if isinstance(variable, Literal) else id(x)
        for variable, x in zip(equation.invars, inputs, strict=True)
    ]
    key = equation.primitive, *operands, *sorted(equation.params.items())
    try:
        hash(key)
    except TypeError:
        return object()
    return object() if equation.effects else key


def run_equation(equation: Any, inputs: list[Any]) -> Sequence[Any]:
    parameters = equation.primitive.get_bind_params(equation.params)
    outputs = equation.primitive.bind(*inputs, **parameters)
    return outputs if equation.primitive.multiple_results else [outputs]


def run_branches_counting(
    equation: Any, parts: list[ClosedJaxpr], inputs: list[Any], products: list[Product]
) -> tuple[Sequence[Any], jax.Array]:
    """Run a loop or a branch that has products within it."""
    name, parameters = equation.primitive.name, equation.params
    match name:
        case "scan":
            first, end = (
                parameters["num_consts"],
                parameters["num_consts"] + parameters["num_carry"],
            )
            constants, carry, xs = inputs[:first], inputs[first:end], inputs[end:]

            def step(carry, x):
                outputs, counts = run_counting(parts[0], [*constants, *carry, *x], products)
                return outputs[: len(carry)], (outputs[len(carry) :], counts)

            carry, (ys, counts) = jax.lax.scan(
                step, carry, xs, length=parameters["length"], reverse=parameters["reverse"]
            )
            return [*carry, *ys], counts.sum(0)
        case "while":
            first = parameters["cond_nconsts"]
            end = first + parameters["body_nconsts"]
            of_condition, of_body, state = inputs[:first], inputs[first:end], inputs[end:]
            condition, body = parameters["cond_jaxpr"], parameters["body_jaxpr"]

            def goes_on(carry):
                return jax.core.eval_jaxpr(
                    condition.jaxpr, condition.consts, *of_condition, *carry[0]
                )[0]

            def repeat(carry):
                state, more = run_counting(body, [*of_body, *carry[0]], products)
                return state, carry[1] + more

            zero = jnp.zeros(len(products), jnp.int32)
            return jax.lax.while_loop(goes_on, repeat, (state, zero))
        case "cond":
            branches = [
                lambda *operands, branch=branch: run_counting(branch, operands, products)
                for branch in parts
            ]
            return jax.lax.switch(inputs[0], branches, *inputs[1:])
        case _:
            raise NotImplementedError(f"the products within {name} cannot be counted")


def seconds_of(product: Product, budget: float) -> float:
    """The seconds that a product takes in a compiled loop, measured for `budget` seconds at least.

    An optimization barrier keeps XLA from moving it out of the loop. Of a small product several
    copies, each with operands of its own, share the time that a turn of the loop takes by itself.
    """
    arrays = (*product.operands, jax.eval_shape(product.compute, *product.operands))
    num_copies = min(8, 1 + SMALL // sum(x.size * x.dtype.itemsize for x in arrays))
    # an array for each, since equal operands would be one constant
    copies = [[jnp.ones(x.shape, x.dtype) for x in arrays] for _ in range(num_copies)]

    def multiply_all(_, copies):
        return jax.lax.optimization_barrier(
            [[*operands, product.compute(*operands)] for *operands, _ in copies]
        )

    run = jax.jit(lambda times, copies: jax.lax.fori_loop(0, times, multiply_all, copies))
    jax.block_until_ready(run(1, copies))
    times = 1
    while True:
        clock = time.perf_counter()
        jax.block_until_ready(run(times, copies))
        seconds = time.perf_counter() - clock
        if seconds >= budget:
            return seconds / times / num_copies
        times *= 4
