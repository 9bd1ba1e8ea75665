"""A planner of etude at the work given as JSON; says how many steps an answer is made of, and how
long it took."""

import json
import sys

import etude  # noqa: F401  first, for the settings of XLA that are its own


def main() -> None:
    import jax
    import jax.numpy as jnp
    import problems
    import stopwatch

    from etude.models.true_models import true_model
    from etude.planning.plans import return_of_plans
    from etude.planning.protocol import ControlProblem, model_step_of
    from etude.planning.sampling.cem import cem
    from etude.planning.trajectory.ilqr import ilqr
    from etude.planning.tree.mcts import UCT, search
    from etude.runs.settings import package_versions
    from etude.struct import struct

    work = json.loads(sys.argv[1])
    jax.config.update("jax_enable_x64", work.get("x64", False))
    key = jax.random.key(work["seed"])
    acrobot = ControlProblem(
        problems.swing, lambda x, u, time: problems.cost(x, u), problems.final_cost
    )

    @struct
    class Swing:
        """The acrobot as a model."""

        def step(self, state, action, key):
            return model_step_of(acrobot, state, action)

    def searched(boards, keys):
        game = problems.GAME
        uct = UCT(
            game.num_actions,
            work["simulations"],
            horizon=game.num_cells,
            players=2,
            legal=game.legal,
            value=(lambda board: 0.0) if work["leaves"] == "zero" else None,
        )
        found = jax.vmap(lambda board, key: search(uct, game, board, key))(boards, keys)
        return found.visits, found.tree.visits

    def sampled(score, horizon, bound):
        found = cem(
            score,
            key,
            jnp.zeros((horizon, 1)),
            bound,
            low=-bound,
            high=bound,
            **{name: work[name] for name in ("samples", "elites", "iterations", "smoothing")},
        )
        return found.mean, found.best, found.value

    def pendulum(state):
        return sampled(return_of_plans(true_model("Pendulum-v1"), state, key), work["horizon"], 1.0)

    def swing(state):
        score = return_of_plans(Swing(), state, key, final_value=lambda x: -problems.final_cost(x))
        return sampled(score, problems.HORIZON, problems.FORCE)

    def solved(state):
        plan = ilqr(acrobot, state, jnp.zeros((problems.HORIZON, 1)), iterations=work["iterations"])
        return plan.iterations, plan.cost, plan.controls

    match work["planner"]:
        case "mcts":
            roots = work["roots"]
            given = problems.boards(roots), jax.random.split(key, roots)
            (_, visits), took = stopwatch.of_program(searched, given, work["budget"])
            # of each node those that pass it: all of them beyond the root make the steps down that
            # were taken
            answer = {
                "steps": roots * work["simulations"],
                "depth": float(visits[:, 1:].sum(1).mean()) / work["simulations"],
            }
        case "cem":
            run, start = (
                (pendulum, jnp.array([3.0, 0.0]))
                if work["model"] == "pendulum"
                else (swing, jnp.zeros(4))
            )
            (_, _, value), took = stopwatch.of_program(run, (start,), work["budget"])
            answer = {"steps": 1, "cost": -float(value)}
        case "ilqr":
            (iterations, cost, _), took = stopwatch.of_program(
                solved, (jnp.zeros(4),), work["budget"]
            )
            answer = {"steps": int(iterations), "cost": float(cost)}
    print(json.dumps(answer | took | {"versions": package_versions()}))


if __name__ == "__main__":
    main()
