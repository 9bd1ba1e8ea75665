"""mctx's MuZero search at the work given as JSON; says how many simulations an answer is made of,
and how long it took.

The game and what a leaf is judged to be are etude's. What differs: the score, which is PUCT with
uniform priors for UCT; and an end of play, below which mctx goes on, at no reward. Illegal moves
have no prior. `depth` says that the trees are as deep.
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

work = json.loads(sys.argv[1])
game, roots, simulations = problems.GAME, work["roots"], work["simulations"]
FORBIDDEN = -1e9


def logits(board):
    return jnp.where(game.legal(board), 0, FORBIDDEN)


def step(params, key, action, node):
    board, over = node
    step = jax.vmap(lambda board, action: game.step(board, action, None))(board, action)
    ends = over | step.terminated
    return mctx.RecurrentFnOutput(
        reward=jnp.where(over, 0, step.reward),
        discount=jnp.where(ends, 0.0, -1.0),
        prior_logits=jax.vmap(logits)(step.state),
        value=jnp.zeros(roots),
    ), (step.state, ends)


def search(boards, key):
    root = mctx.RootFnOutput(
        prior_logits=jax.vmap(logits)(boards),
        value=jnp.zeros(roots),
        embedding=(boards, jnp.zeros(roots, bool)),
    )
    found = mctx.muzero_policy(
        (),
        key,
        root,
        step,
        simulations,
        max_depth=game.num_cells,
        dirichlet_fraction=0.0,
        temperature=0.0,
    )
    return found.action_weights, found.search_tree.node_visits


(_, visits), took = stopwatch.of_program(
    search, (problems.boards(roots), jax.random.key(work["seed"])), work["budget"]
)
print(
    json.dumps(
        {"steps": roots * simulations, "depth": float(visits[:, 1:].sum(1).mean()) / simulations}
        | took
        | {"versions": {name: version(name) for name in ("mctx", "jax")}}
    )
)
