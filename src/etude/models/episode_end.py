"""How likely a step ends its episode, learned: P(terminated | s, a, s').

It is a network of its own that sees the successor, so that it agrees with the one that a model
samples. Ends are rare, so half of each batch ended its episode; the logit is corrected for that:

    logit P = f(s, a, s') + log(n₁ / n₀),    n₁ steps ended their episode, n₀ did not.
"""

import jax
import jax.numpy as jnp
import optax

from etude.models.model_rows import draw_rows
from etude.nn.networks import MLP, make_mlp
from etude.struct import replace, struct
from etude.types import Array

HIDDEN, BATCH_SIZE, LEARNING_RATE, GRADIENT_STEPS = (64, 64), 256, 3e-3, 500
OPTIMIZER = optax.adamw(LEARNING_RATE, weight_decay=1e-4)


@struct
class EpisodeEnd:
    """A classifier of steps that end their episode."""

    mlp: MLP
    opt_state: optax.OptState
    num_ended: Array  # int32 []: n₁ of the rows
    num_went_on: Array  # int32 []: n₀

    def probability(self, step: Array) -> Array:
        """P(terminated) [...], of standardized (s, a, s') [..., column].

        It is 0 where no row has ended its episode.
        """
        log_odds = jnp.log(self.num_ended) - jnp.log(self.num_went_on)
        return jax.nn.sigmoid(self.mlp(step)[..., 0] + log_odds)


def init_episode_end(key: Array, inputs: int) -> EpisodeEnd:
    """A classifier of no rows, whose probability is 0."""
    mlp = make_mlp(key, [inputs, *HIDDEN, 1], "silu")
    return EpisodeEnd(mlp, OPTIMIZER.init(mlp), jnp.int32(0), jnp.int32(1))


def fit_episode_end(
    end: EpisodeEnd,
    steps: Array,
    terminated: Array,
    is_valid: Array,
    key: Array,
    gradient_steps: int = GRADIENT_STEPS,
) -> EpisodeEnd:
    """The classifier after `gradient_steps` on rows of standardized (s, a, s') [row, column].

    Nothing is learned where none of them, or all, have ended their episode.
    """
    ended, went_on = terminated & is_valid, ~terminated & is_valid
    is_ended = jnp.arange(BATCH_SIZE) < BATCH_SIZE // 2

    def loss(mlp, rows):
        return optax.sigmoid_binary_cross_entropy(mlp(steps[rows])[:, 0], 1.0 * is_ended).mean()

    def step(end, key):
        key_ended, key_went_on = jax.random.split(key)
        rows = jnp.concatenate(
            [
                draw_rows(key_ended, ended, (BATCH_SIZE // 2,)),
                draw_rows(key_went_on, went_on, (BATCH_SIZE // 2,)),
            ]
        )
        updates, opt_state = OPTIMIZER.update(jax.grad(loss)(end.mlp, rows), end.opt_state, end.mlp)
        return replace(end, mlp=optax.apply_updates(end.mlp, updates), opt_state=opt_state), None

    def fit(end):
        return jax.lax.scan(step, end, jax.random.split(key, gradient_steps))[0]

    end = jax.lax.cond(ended.any() & went_on.any(), fit, lambda end: end, end)
    return replace(end, num_ended=ended.sum(), num_went_on=went_on.sum())
