"""Clone with `imitation` on a workload given as JSON; print gradient steps and seconds.

imitation 1.0.1 needs versions of Gymnasium and Stable-Baselines3 that no other peer has, so it has
an environment of its own:

    python3 -m venv .venv-imitation
    .venv-imitation/bin/pip install -r benchmarks/torch.txt imitation==1.0.1

The demonstrations are random rows of the shapes of LunarLander-v3, as many as etude records: their
values do not change the work. The network of the value, which SB3's policies have, has no layer.
"""

import json
import sys
import time
from importlib.metadata import version

import gymnasium
import numpy as np
import torch
from imitation.algorithms.bc import BC
from imitation.data.types import Transitions
from stable_baselines3.common.policies import ActorCriticPolicy

ROWS = 5_000
OBSERVATION = gymnasium.spaces.Box(-np.inf, np.inf, (8,), np.float32)
ACTION = gymnasium.spaces.Discrete(4)


def main() -> None:
    workload = json.loads(sys.argv[1])
    hyperparameters, rng = workload["hyperparameters"], np.random.default_rng(workload["seed"])
    torch.manual_seed(workload["seed"])
    policy = ActorCriticPolicy(
        OBSERVATION,
        ACTION,
        lr_schedule=lambda _: hyperparameters["learning_rate"],
        net_arch={"pi": hyperparameters["hidden"], "vf": []},
        activation_fn={"relu": torch.nn.ReLU, "tanh": torch.nn.Tanh}[hyperparameters["activation"]],
    )
    observations = rng.normal(size=(ROWS + 1, 8)).astype(np.float32)
    bc = BC(
        observation_space=OBSERVATION,
        action_space=ACTION,
        rng=rng,
        policy=policy,
        demonstrations=Transitions(
            obs=observations[:-1],
            acts=rng.integers(ACTION.n, size=ROWS),
            infos=np.array([{}] * ROWS),
            next_obs=observations[1:],
            dones=np.zeros(ROWS, bool),
        ),
        batch_size=hyperparameters["batch_size"],
        optimizer_kwargs={"lr": hyperparameters["learning_rate"]},
        ent_weight=0.0,
        l2_weight=hyperparameters["weight_decay"],
        device="cpu",
    )
    bc.train(n_batches=workload["skip"], progress_bar=False)
    start, steps = time.perf_counter(), workload["steps"] - workload["skip"]
    bc.train(n_batches=steps, log_interval=steps, progress_bar=False)
    seconds = time.perf_counter() - start
    packages = ("imitation", "stable-baselines3", "torch", "gymnasium", "numpy")
    versions = {name: version(name) for name in packages}
    print(json.dumps({"steps": steps, "seconds": seconds, "versions": versions}))


if __name__ == "__main__":
    main()
