"""Run mctx's MuZero search on a workload given as JSON; print the simulations and seconds.

The game and the values of leaves are those of etude. Two things differ: the score is PUCT with
uniform priors in place of UCT, and mctx searches below terminal states, without reward. Illegal
moves have prior 0. `depth` shows that the trees have equal depth.
"""

import json
import sys
from importlib.metadata import version
from pathlib import Path

sys.path[:0] = [str(Path(__file__).parents[1]), str(Path(__file__).parents[2] / "src")]
import jax  # noqa: E402
import jax.numpy as jnp  # noqa: E402
import mctx  # noqa: E402
import problems  # noqa: E402
import stopwatch  # noqa: E402

workload = json.loads(sys.argv[1])
game, roots, simulations = problems.GAME, workload["roots"], workload["simulations"]
MASKED_LOGIT = -1e9


def logits(board):
    return jnp.where(game.legal(board), 0, MASKED_LOGIT)


def step(params, key, action, node):
    board, is_over = node
    next_step = jax.vmap(lambda board, action: game.step(board, action, None))(board, action)
    next_is_over = is_over | (next_step.continues == 0)
    return mctx.RecurrentFnOutput(
        reward=jnp.where(is_over, 0, next_step.reward),
        discount=jnp.where(next_is_over, 0.0, -1.0),
        prior_logits=jax.vmap(logits)(next_step.state),
        value=jnp.zeros(roots),
    ), (next_step.state, next_is_over)


def search(boards, key):
    root = mctx.RootFnOutput(
        prior_logits=jax.vmap(logits)(boards),
        value=jnp.zeros(roots),
        embedding=(boards, jnp.zeros(roots, bool)),
    )
    result = mctx.muzero_policy(
        (),
        key,
        root,
        step,
        simulations,
        max_depth=game.num_cells,
        dirichlet_fraction=0.0,
        temperature=0.0,
    )
    return result.action_weights, result.search_tree.node_visits


(_, visits), times = stopwatch.time_compiled(
    search, (problems.boards(roots), jax.random.key(workload["seed"])), workload["budget"]
)
print(
    json.dumps(
        {"steps": roots * simulations, "depth": float(visits[:, 1:].sum(1).mean()) / simulations}
        | times
        | {"versions": {name: version(name) for name in ("mctx", "jax")}}
    )
)
