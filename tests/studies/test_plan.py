"""Plans on the problems, as files and pictures."""

import json
from types import SimpleNamespace

import imageio.v2 as imageio
import jax
import numpy as np
import pytest

from etude.errors import InvalidInput
from etude.planning.problems import DoubleIntegrator
from etude.planning.trajectory.ilqr import simulate_controls
from etude.reporting import plan_figures
from etude.struct import replace
from etude.studies import plan as plans
from etude.studies.plan import (
    GAMES,
    PROBLEMS,
    PlannedPath,
    most_visited,
    plan,
    run_planner,
    run_sampling_planner,
)

KEY = jax.random.key(0)
SHORT = replace(DoubleIntegrator(), horizon=6)


@pytest.fixture(scope="module")
def planned(tmp_path_factory):
    return plan("double-integrator", out=tmp_path_factory.mktemp("plan"))


@pytest.mark.slow
def test_a_plan_is_written_as_it_was_found(planned):
    directory, found = planned
    told = json.loads((directory / "plan.json").read_text())
    assert told == found and told["solved"] and told["planner"] == "ilqr"
    problem = PROBLEMS["double-integrator"]
    states, costs = simulate_controls(
        problem, np.float32(told["states"][0]), np.float32(told["controls"])
    )
    np.testing.assert_allclose(told["states"], states, atol=1e-4)
    assert (
        told["cost"] == pytest.approx(float(costs.sum()), rel=1e-4)
        and told["cost"] == told["costs"][-1]
    )
    assert (np.diff(told["costs"]) <= 1e-6).all()
    with pytest.raises(InvalidInput, match="holds a plan already; give another --out"):
        plan("double-integrator", out=directory)


@pytest.mark.slow
def test_it_is_drawn_and_filmed(planned):
    directory, found = planned
    assert imageio.imread(directory / "plan.png").shape[:2] == (1080, 1800)
    film = imageio.get_reader(directory / "motion.mp4")
    assert film.count_frames() == len(found["states"]) + 10  # a second of the last
    first, last = (np.asarray(film.get_data(i), int) for i in (0, len(found["states"])))
    assert np.abs(first - last).max() > 100  # the block has moved


@pytest.mark.slow
def test_tree_search_draws_its_tree(tmp_path):
    directory, found = plan("tic-tac-toe", iterations=50, out=tmp_path)
    assert sum(found["visits"]) == 50 and found["action"] == int(np.argmax(found["visits"]))
    assert json.loads((directory / "plan.json").read_text()) == found
    assert imageio.imread(directory / "tree.png").shape[:2] == (1080, 1800)


@pytest.mark.slow
@pytest.mark.parametrize("planner", ["random_shooting", "cem", "icem", "mppi"])
def test_what_a_sampling_planner_found_is_the_least_it_saw(planner):
    start, guess = np.float32([1, 0]), np.zeros((6, 1), np.float32)
    score = lambda many: (
        -jax.vmap(lambda controls: simulate_controls(SHORT, start, controls)[1].sum())(many)
    )
    controls, costs = run_sampling_planner(planner, score, guess, SHORT, 8, 40, 5, KEY)
    assert len(costs) == 9 and (np.diff(costs) <= 0).all() and costs[-1] < costs[0]
    assert (np.abs(controls) <= 2).all()
    assert costs[-1] == pytest.approx(-float(score(controls[None])[0]), rel=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize(
    "planner", ["ddp", "multiple_shooting", "gradient_shooting", "collocation"]
)
def test_all_who_use_derivatives_agree(planner):
    """Collocation's controls change within a step, so that its path costs a little less, or more
    where it is held."""
    exact, found = (
        run_planner(SHORT, "ilqr", 50, 1, 1, KEY),
        run_planner(SHORT, planner, 500, 1, 1, KEY),
    )
    assert found.states.shape == (7, 2) and found.controls.shape == (6, 1)
    assert found.costs[-1] == pytest.approx(
        float(exact.costs[-1]), rel=0.15 if planner == "collocation" else 1e-3
    )


def test_what_is_drawn_of_a_tree_hangs_together():
    """The root leads to 1 and 3, and 1 leads to 2; node 4 was never visited."""
    children = np.zeros((5, 2), int)
    children[0], children[1, 1] = (3, 1), 2
    tree = SimpleNamespace(
        children=children,
        visits=np.array([9, 6, 2, 3, 0]),
        return_sum=-np.array([1.0, 3.0, -2.0, 0.0, 0.0]),
    )
    found = dict(most_visited(tree))
    assert found == {1: (0, 1, 6, 0.5), 2: (1, 1, 2, -1.0), 3: (0, 0, 3, 0.0)}
    places = plan_figures.layout_tree(found)
    assert (
        places[3][0] < places[1][0] == places[2][0]
        and places[0][0] == (places[1][0] + places[3][0]) / 2
    )
    assert [places[node][1] for node in range(4)] == [0, -1, -2, -1]


@pytest.mark.slow
@pytest.mark.parametrize("name", PROBLEMS)
def test_every_problem_has_its_names_and_is_seen_whole(name, tmp_path, monkeypatch):
    """At both ends of a path, what is drawn lies within the picture, and two states look
    different."""
    problem = PROBLEMS[name]
    start = np.asarray(problem.initial_state(KEY))
    states, controls = np.stack([start, start + 0.5]), np.zeros((1, len(problem.low)))
    assert tuple(map(len, plan_figures.LABELS[name])) == (len(start), len(problem.low))
    plan_figures.draw_path(
        tmp_path / "plan.png",
        plan_figures.LABELS[name],
        problem,
        PlannedPath(states, controls, np.ones(2)),
        name,
        "",
    )
    (left, right), (bottom, top) = plan_figures.plot_limits(name, problem, states)
    drawn = []
    monkeypatch.setattr(
        plan_figures, "draw_disc", lambda axes, x, y, radius, color: drawn[-1].append((x, y))
    )
    axes = SimpleNamespace(plot=lambda xs, ys, **style: drawn[-1].extend(zip(xs, ys, strict=True)))
    for state in states:
        drawn.append([])
        plan_figures.draw_state(axes, name, problem, state)
        assert all(left < x < right and bottom < y < top for x, y in drawn[-1])
    assert drawn[0] != drawn[1]


@pytest.mark.parametrize(
    ("asked", "words"),
    [
        (
            {"problem": "cartpole"},
            "no problem is called 'cartpole'; there are double-integrator, .*cart-pole",
        ),
        ({"problem": "car", "planner": "astar"}, "planner is 'astar'; choose one of ilqr, ddp"),
        (
            {"problem": "car", "planner": "mcts"},
            "mcts does not plan on car: mcts searches the games tic-tac-toe",
        ),
        ({"problem": "tic-tac-toe", "planner": "cem"}, "cem does not plan on tic-tac-toe"),
        ({"problem": "car", "iterations": 0}, "iterations is 0; it must be at least 1"),
        ({"problem": "car", "samples": 10}, "elites is 50; of 10 samples"),
    ],
)
def test_what_cannot_be_planned_is_refused(asked, words, tmp_path):
    with pytest.raises(InvalidInput, match=words):
        plan(**asked, out=tmp_path / "plan")
    assert not (tmp_path / "plan").exists() and set(GAMES).isdisjoint(plans.PROBLEMS)
