"""Run a planner of etude on a workload given as JSON; print the steps and seconds of a plan."""

import json
import sys

import etude  # noqa: F401  first, since it sets flags of XLA


def main() -> None:
    import jax
    import jax.numpy as jnp
    import problems
    import stopwatch

    from etude.models.true_models import true_model
    from etude.planning.plans import return_of_plans
    from etude.planning.protocol import ControlProblem, LiftedModel, model_step_of
    from etude.planning.sampling.cem import cem
    from etude.planning.trajectory.ilqr import ilqr
    from etude.planning.tree.evaluation import Rollout
    from etude.planning.tree.mcts import search
    from etude.planning.tree.rules import UCT
    from etude.planning.tree.tree import SearchSettings
    from etude.runs.versions import package_versions

    workload = json.loads(sys.argv[1])
    jax.config.update("jax_enable_x64", workload.get("x64", False))
    key = jax.random.key(workload["seed"])
    acrobot = ControlProblem(
        problems.acrobot_step, lambda x, u, time: problems.cost(x, u), problems.final_cost
    )

    def search_trees(boards, keys):
        game, rule = problems.GAME, UCT()
        settings = SearchSettings(workload["simulations"], horizon=game.num_cells, players=2)

        def evaluate_zero(state, key, steps_left):
            return jnp.zeros(game.num_actions), 0.0

        is_zero = workload["leaves"] == "zero"
        evaluate = evaluate_zero if is_zero else Rollout(game.model, settings)

        def search_tree(board, key):
            state, legal = board[None, None], game.legal(board)
            return search(game.model, state, legal, evaluate, rule, rule, key, settings)

        result = jax.vmap(search_tree)(boards, keys)
        return result.visits, result.tree.visits

    def run_cem(score, horizon, max_control):
        result, _ = cem(
            score,
            key,
            jnp.zeros((horizon, 1)),
            max_control,
            low=-max_control,
            high=max_control,
            **{name: workload[name] for name in ("samples", "elites", "iterations", "smoothing")},
        )
        return result.mean, result.best, result.value

    def plan_pendulum(state):
        return run_cem(
            return_of_plans(true_model("Pendulum-v1"), state[None, None], key),
            workload["horizon"],
            1.0,
        )

    def plan_acrobot(state):
        model = LiftedModel(lambda state, action, key: model_step_of(acrobot, state, action))
        final_value = jax.vmap(jax.vmap(lambda x: -problems.final_cost(x)))
        score = return_of_plans(model, state[None, None], key, final_value=final_value)
        return run_cem(score, problems.HORIZON, problems.MAX_TORQUE)

    def solve_acrobot(state):
        plan = ilqr(
            acrobot, state, jnp.zeros((problems.HORIZON, 1)), iterations=workload["iterations"]
        )
        return plan.iterations, plan.cost, plan.controls

    match workload["planner"]:
        case "mcts":
            roots = workload["roots"]
            arguments = problems.boards(roots), jax.random.split(key, roots)
            (_, visits), times = stopwatch.time_compiled(
                search_trees, arguments, workload["budget"]
            )
            # the visits of all nodes but the root sum to the steps down the tree
            output = {
                "steps": roots * workload["simulations"],
                "depth": float(visits[:, 1:].sum(1).mean()) / workload["simulations"],
            }
        case "cem":
            planner, start = (
                (plan_pendulum, jnp.array([3.0, 0.0]))
                if workload["model"] == "pendulum"
                else (plan_acrobot, jnp.zeros(4))
            )
            (_, _, value), times = stopwatch.time_compiled(planner, (start,), workload["budget"])
            output = {"steps": 1, "cost": -float(value)}
        case "ilqr":
            (iterations, cost, _), times = stopwatch.time_compiled(
                solve_acrobot, (jnp.zeros(4),), workload["budget"]
            )
            output = {"steps": int(iterations), "cost": float(cost)}
    print(json.dumps(output | times | {"versions": package_versions()}))


if __name__ == "__main__":
    main()
