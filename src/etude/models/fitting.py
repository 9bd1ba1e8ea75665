"""Fitting the weights of a dynamics network until rows that are held out no longer gain by it.

Each member keeps the weights of the last pass that lowered its held-out loss by GAIN. The loss is
its negative log likelihood, since the error alone says nothing of the variance that it predicts.
The passes end when no member has gained for a while, or at a cap on gradient steps.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax

from etude.models.model_rows import draw_rows
from etude.struct import replace, struct
from etude.types import Array, Metrics

# the least fall of the held-out loss that counts as a gain, nats for each target; it is that of a
# squared error that falls by a hundredth (Janner et al., 2019), ½ log 1.01, where the variance fits
GAIN = 0.005
SHORTEST_PASS = 50  # gradient steps: with few rows, a pass goes through them several times
EVALUATION_ROWS = 1_024  # held-out rows that are drawn once to measure the error in each pass


@struct
class FitState:
    """The weights of all members, as they are fitted."""

    weights: Any  # leaves [member, ...]; or of one Bayesian network, without the axis
    opt_state: Any
    best: Any  # the weights of each member's best pass
    losses: Array  # [member]: their held-out losses, nats for each target
    errors: Array  # [member]: their mean squared errors
    without_gain: Array  # int32: passes since any member gained
    gradient_steps: Array  # int32


def fit_until_no_gain(
    weights: Any,
    opt_state: Any,
    optimizer: optax.GradientTransformation,
    loss: Callable[[Any, Array, Array], Array],
    judge: Callable[[Any, Array], tuple[Array, Array]],
    row_weights: Array,
    held_out: Array,
    key: Array,
    *,
    batch_size: int,
    most_steps: int,
    patience: int,
) -> tuple[Any, Any, Metrics]:
    """(weights of the best passes, optimizer state, metrics).

    Args:
        weights, opt_state: to start from; where there are several members, all leaves of the
            weights have a leading axis [member].
        loss: (weights, rows int32 [member, batch], key) -> [], the sum over members.
        judge: (weights, rows int32 [row]) -> the loss of each member, nats for each target, and its
            mean squared error, both [member].
        row_weights: how often each member counts each row in training, [member, row].
        held_out: bool [row]: rows to measure on. Where there are none, every pass counts as a
            gain, and errors are told as 0.
        most_steps: gradient steps at most.
        patience: passes without a gain after which it ends.
    """
    key_rows, key_steps = jax.random.split(key)
    measured = draw_rows(key_rows, held_out, (EVALUATION_ROWS,))
    # a pass draws as many rows as a member has, or more
    pass_steps = jnp.ceil(row_weights.sum(-1).mean() / batch_size).astype(jnp.int32)
    pass_steps = jnp.clip(pass_steps, SHORTEST_PASS, most_steps)
    is_measured = held_out.any()

    def gradient_step(number, state):
        key_batch, key_loss = jax.random.split(jax.random.fold_in(key_steps, number))
        keys = jax.random.split(key_batch, len(row_weights))
        rows = jax.vmap(lambda key, weights: draw_rows(key, weights, (batch_size,)))(
            keys, row_weights
        )
        gradient = jax.grad(loss)(state.weights, rows, key_loss)
        updates, opt_state = optimizer.update(gradient, state.opt_state, state.weights)
        return replace(
            state, weights=optax.apply_updates(state.weights, updates), opt_state=opt_state
        )

    def take_pass(state):
        end = jnp.minimum(state.gradient_steps + pass_steps, most_steps)
        state = jax.lax.fori_loop(state.gradient_steps, end, gradient_step, state)
        loss, error = judge(state.weights, measured)
        is_better = (loss < state.losses - GAIN) | ~is_measured
        is_better &= jnp.isfinite(error) & ~jnp.isnan(loss)  # never keep weights that diverged
        best = select_members(is_better, state.weights, state.best)
        return replace(
            state,
            best=best,
            losses=jnp.where(is_better, loss, state.losses),
            errors=jnp.where(is_better, error, state.errors),
            without_gain=jnp.where(is_better.any(), 0, state.without_gain + 1),
            gradient_steps=end,
        )

    def goes_on(state):
        return (state.gradient_steps < most_steps) & (state.without_gain < patience)

    # what was fitted before has to be beaten on the rows that are held out now
    first_loss, first_error = judge(weights, measured)
    first_loss = jnp.where(jnp.isnan(first_loss), jnp.inf, first_loss)
    zero = jnp.int32(0)
    state = jax.lax.while_loop(
        goes_on,
        take_pass,
        FitState(weights, opt_state, weights, first_loss, first_error, zero, zero),
    )
    errors_found = jnp.where(is_measured, state.errors, 0.0)
    metrics = {"heldout_mse": errors_found.mean(), "updates": state.gradient_steps}
    # an optimizer that diverged would spoil every later fit
    has_diverged = ~is_finite((state.weights, state.opt_state))
    opt_state = jax.tree.map(
        lambda new, old: jnp.where(has_diverged, old, new), state.opt_state, opt_state
    )
    metrics["diverged_fits"] = 1.0 * has_diverged
    return state.best, opt_state, {**metrics, "member_mse": errors_found}


def is_finite(tree: Any) -> Array:
    """Whether all numbers of a tree are finite, bool []."""
    return jnp.stack([jnp.isfinite(x).all() for x in jax.tree.leaves(tree)]).all()


def select_members(chosen: Array, new: Any, old: Any) -> Any:
    """`new` for the members in `chosen`, bool [member], else `old`; leaves [member, ...].

    Of a single network, whose leaves have no such axis, `chosen` is bool [1].
    """

    def select(new, old):
        if len(chosen) == 1:
            return jnp.where(chosen[0], new, old)
        return jnp.where(chosen.reshape(-1, *[1] * (new.ndim - 1)), new, old)

    return jax.tree.map(select, new, old)
