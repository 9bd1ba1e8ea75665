"""Training workloads: algorithms, hyperparameters, the libraries compared, and speed targets."""

from pathlib import Path
from typing import Any, NamedTuple

from report import CORES, HERE

ETUDE_PYTHON, PEER_PYTHON, IMITATION_PYTHON = (
    HERE.parent / venv / "bin" / "python" for venv in (".venv", ".venv-peers", ".venv-imitation")
)
# etude sets this flag for itself
XLA_FLAG = "--xla_cpu_enable_concurrency_optimized_scheduler=false"
THREADS = {f"torch threads: {n}": {"OMP_NUM_THREADS": str(n)} for n in sorted({1, CORES})}
FLAGS = {"XLA flags: none": {}, "XLA flags: etude's": {"XLA_FLAGS": XLA_FLAG}}


class Side(NamedTuple):
    """A library on one kind of environment."""

    label: str
    python: Path
    script: str
    settings: dict[str, Any]  # its own settings
    variants: dict[str, dict[str, str]]  # environment variables; the fastest variant is measured
    compiled: bool = False  # with its environment: a step costs the same throughout learning


class Target(NamedTuple):
    """The least ratio of the speed of a side of etude to that of a peer; None only reports it."""

    etude: str
    peer: str
    min_ratio: float | None = None


class Workload(NamedTuple):
    """An algorithm with hyperparameters, in etude's names, on an environment, for all sides."""

    title: str
    settings: dict[str, Any]
    steps: int  # environment steps of a measurement, equal for the same stages of learning
    compiled_steps: int  # environment steps of a measurement of `compiled` sides
    sides: list[Side]
    targets: list[Target]


SB3, CONTRIB, REJAX, SBX = "Stable-Baselines3", "sb3-contrib", "rejax", "SBX"
IMITATION = "imitation"
PRODUCTS_ALONE, TWO_WORKERS = "products alone", "gymnasium, 2 workers"
DATASET = "a dataset"  # the side of etude that plays in no environment
PEER = {
    SB3: Side(SB3, PEER_PYTHON, "peers/sb3.py", {}, THREADS),
    CONTRIB: Side(CONTRIB, PEER_PYTHON, "peers/sb3_contributed.py", {}, THREADS),
    REJAX: Side(REJAX, PEER_PYTHON, "peers/rejax_ppo.py", {}, FLAGS, compiled=True),
    SBX: Side(SBX, PEER_PYTHON, "peers/sbx_agents.py", {}, FLAGS),
    IMITATION: Side(IMITATION, IMITATION_PYTHON, "peers/imitation_bc.py", {}, THREADS),
}


def etude_on(*backends: str) -> list[Side]:
    """The sides of etude on the backends."""
    return [etude_side(backend, backend) for backend in backends]


def etude_side(label: str, backend: str, **settings: Any) -> Side:
    """A side of etude on a backend, with settings of its own."""
    return Side(
        label,
        ETUDE_PYTHON,
        "run_etude.py",
        {"backend": backend} | settings,
        {"": {}},
        backend == "jax",
    )


def limit_sides(sides: list[Side]) -> list[Side]:
    """What the limits of the sides of etude are made of: each environment, and the products.

    A limit is 1 / (1 / environment alone + 1 / products alone) environment steps per second; of
    what plays in none, the products alone.
    """
    script, no_variants = "environment_alone.py", {"": {}}
    return [
        *(
            Side(environment_alone(side.label), ETUDE_PYTHON, script, side.settings, no_variants)
            for side in sides
            if side.script == "run_etude.py" and side.label != DATASET
        ),
        Side(PRODUCTS_ALONE, ETUDE_PYTHON, "products_alone.py", {}, no_variants),
    ]


def environment_alone(label: str) -> str:
    """The label of the environment alone of a side of etude."""
    return f"environment alone ({label})"


DQN = {
    "algorithm": "dqn",
    "environment": "CartPole-v1",
    "num_envs": 1,
    "hyperparameters": {
        "hidden": [64, 64],
        "activation": "relu",
        "learning_rate": 1e-3,
        "discount": 0.99,
        "batch_size": 64,
        "capacity": 100_000,
        "warmup_steps": 1_000,
        "rollout_length": 1,
        "gradient_steps": 1,
        "target_interval": 500,
        "max_gradient_norm": 10.0,
        "exploration": {"kind": "epsilon-greedy", "initial_epsilon": 1.0, "final_epsilon": 0.05},
        "exploration_steps": 10_000.0,
        "double": False,
        "head": {"kind": "scalar", "loss_type": "huber"},
    },
}
PPO = {
    "algorithm": "ppo",
    "environment": "CartPole-v1",
    "num_envs": 8,
    "hyperparameters": {
        "hidden": [64, 64],
        "activation": "tanh",
        "learning_rate": 3e-4,
        "discount": 0.99,
        "gae_lambda": 0.95,
        "clip": 0.2,
        "rollout_length": 128,
        "batch_size": 256,
        "epochs": 4,
        "normalize_advantage": True,
        "value_coefficient": 0.5,
        "entropy_coefficient": 0.0,
        "max_gradient_norm": 0.5,
    },
}
RECURRENT = PPO | {
    "hyperparameters": PPO["hyperparameters"]
    | {"hidden": [64], "recurrent": {"kind": "lstm", "units": 64}, "sequence_length": 128}
}
A2C = {
    "algorithm": "a2c",
    "environment": "CartPole-v1",
    "num_envs": 8,
    "hyperparameters": {
        "hidden": [64, 64],
        "activation": "tanh",
        "learning_rate": 7e-4,
        "discount": 0.99,
        "gae_lambda": 1.0,
        "rollout_length": 5,
        "normalize_advantage": False,
        "value_coefficient": 0.5,
        "entropy_coefficient": 0.0,
        "max_gradient_norm": 0.5,
    },
}
TRPO = {
    "algorithm": "trpo",
    "environment": "CartPole-v1",
    "num_envs": 2,
    "hyperparameters": {
        "hidden": [64, 64],
        "activation": "tanh",
        "learning_rate": 1e-3,
        "discount": 0.99,
        "gae_lambda": 0.95,
        "kl_limit": 0.01,
        "damping": 0.1,
        "line_search_shrink": 0.8,
        "conjugate_steps": 15,
        "line_search_steps": 10,
        "fisher_interval": 1,
        "rollout_length": 1024,
        "batch_size": 128,
        "value_epochs": 10,
        "normalize_advantage": True,
    },
}
SAC = {
    "algorithm": "sac",
    "environment": "Pendulum-v1",
    "num_envs": 1,
    "hyperparameters": {
        "hidden": [256, 256],
        "activation": "relu",
        "learning_rate": 3e-4,
        "discount": 0.99,
        "batch_size": 256,
        "capacity": 100_000,
        "warmup_steps": 100,
        "rollout_length": 1,
        "gradient_steps": 1,
        "target_rate": 0.005,
    },
}
TD3 = {
    "algorithm": "td3",
    "environment": "Pendulum-v1",
    "num_envs": 1,
    "hyperparameters": SAC["hyperparameters"]
    | {
        "learning_rate": 1e-3,
        "policy_interval": 2,
        "target_noise": 0.2,
        "target_noise_clip": 0.5,
        "exploration_noise": 0.1,
    },
}
BC = {
    "algorithm": "bc",
    "environment": "LunarLander-v3",
    "num_envs": 1,
    "demonstrations": {"expert": "heuristic", "episodes": 20},
    "hyperparameters": {
        "hidden": [256, 256],
        "activation": "relu",
        "learning_rate": 1e-3,
        "weight_decay": 0.0,
        "batch_size": 256,
        "gradient_steps": 100,
    },
}

WORKLOADS = {
    "dqn-cartpole": Workload(
        "DQN on CartPole-v1: 1 copy, a gradient step for every environment step",
        DQN,
        20_000,
        150_000,
        [PEER[SB3], *etude_on("gymnasium", "envpool", "jax")],
        [Target("gymnasium", SB3, 9), Target("envpool", SB3, 8), Target("jax", SB3, 17)],
    ),
    "ppo-cartpole": Workload(
        "PPO on CartPole-v1: 8 copies × 128 steps, 4 epochs of batches of 256",
        PPO,
        200 * 1024,
        3_000 * 1024,
        [PEER[SB3], PEER[REJAX], *etude_on("gymnasium", "envpool", "jax")],
        [
            Target("gymnasium", SB3, 4.8),
            Target("envpool", SB3, 6),
            Target("jax", SB3, 14),
            Target("jax", REJAX, 1.2),
        ],
    ),
    "ppo-lunarlander": Workload(
        "PPO on LunarLander-v3: the same settings",
        PPO | {"environment": "LunarLander-v3"},
        100 * 1024,
        100 * 1024,
        [
            PEER[SB3],
            *etude_on("gymnasium", "envpool"),
            etude_side(TWO_WORKERS, "gymnasium", workers=2),
        ],
        [
            Target("gymnasium", SB3, 2),
            Target("envpool", SB3, 4),
            Target(TWO_WORKERS, "gymnasium", 1.3),
        ],
    ),
    "ppo-recurrent": Workload(
        "PPO with an LSTM of 64 on CartPole-v1: the same settings, trained through sequences of "
        "128 steps",
        RECURRENT,
        40 * 1024,
        300 * 1024,
        [PEER[CONTRIB], *etude_on("gymnasium", "jax")],
        [Target("gymnasium", CONTRIB, 3), Target("jax", CONTRIB)],
    ),
    "a2c-cartpole": Workload(
        "A2C on CartPole-v1: 8 copies × 5 steps",
        A2C,
        100_000,
        2_000_000,
        [PEER[SB3], *etude_on("gymnasium", "jax")],
        [Target("gymnasium", SB3, 4), Target("jax", SB3, 20)],
    ),
    "trpo-cartpole": Workload(
        "TRPO on CartPole-v1: 2 copies × 1,024 steps, 15 conjugate steps, 10 epochs of the value",
        TRPO,
        50 * 2048,
        300 * 2048,
        [PEER[CONTRIB], *etude_on("gymnasium", "jax")],
        [Target("gymnasium", CONTRIB, 2), Target("jax", CONTRIB, 4)],
    ),
    "sac-pendulum": Workload(
        "SAC on Pendulum-v1: a gradient step for every environment step, 2 × 256, batches of 256",
        SAC,
        4_000,
        6_000,
        [PEER[SB3], PEER[SBX], *etude_on("gymnasium", "jax")],
        [Target("gymnasium", SB3, 2.2), Target("gymnasium", SBX, 1.35), Target("jax", SB3, 2.5)],
    ),
    "td3-pendulum": Workload(
        "TD3 on Pendulum-v1: the same settings, the policy moving every second step",
        TD3,
        4_000,
        6_000,
        [PEER[SB3], PEER[SBX], *etude_on("gymnasium", "jax")],
        [Target("gymnasium", SB3, 2.2), Target("gymnasium", SBX, 1.35), Target("jax", SB3, 2.5)],
    ),
    "bc-lunarlander": Workload(
        "Behavior cloning on LunarLander-v3: gradient steps, 2 × 256, batches of 256",
        BC,
        10_000,
        10_000,
        [PEER[IMITATION], etude_side(DATASET, "gymnasium")],
        [Target(DATASET, PRODUCTS_ALONE, 0.7), Target(DATASET, IMITATION)],
    ),
}
STARTS = {  # seconds at most with an empty (cold) or a full (warm) cache of compiled programs
    "jax": {"cold": 10, "warm": 4},
    "gymnasium": {"cold": 10, "warm": 6},
}
HELP = 2  # seconds at most for `etude --help`
