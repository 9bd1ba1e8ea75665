"""etude is a library of deep reinforcement learning on JAX, from tabular methods to planning.

    run = etude.train(etude.DQN(), "CartPole-v1", steps=50_000, seeds=4)
    run.evaluate()

Names load on first use, so that `etude --help` and the worker processes of slow environments start
without JAX.
"""

import importlib
import os
import sys
import warnings

from etude.algorithms._index import ALGORITHMS as _ALGORITHMS

_XLA_FLAG = "--xla_cpu_enable_concurrency_optimized_scheduler=false"

# Batched LAPACK calls wait for subtasks on the thread pool they occupy; with XLA's concurrent
# scheduler two such calls deadlock a machine of two cores. Running thunks in order also makes loops
# over small networks 15 to 25 % faster.
if _XLA_FLAG.split("=")[0] not in os.environ.get("XLA_FLAGS", ""):
    os.environ["XLA_FLAGS"] = f"{os.environ.get('XLA_FLAGS', '')} {_XLA_FLAG}".strip()
    if "jax" in sys.modules and sys.modules["jax"]._src.xla_bridge.backends_are_initialized():
        warnings.warn(
            f"JAX was already running when etude was imported, so {_XLA_FLAG} does not apply: "
            "training is slower and may hang on machines of few cores. "
            f"Import etude first, or set XLA_FLAGS={_XLA_FLAG}.",
            RuntimeWarning,
            stacklevel=2,
        )

__version__ = "0.1.0"

_MODULE_OF = {
    **{attribute: module.removeprefix("etude.") for module, attribute, _ in _ALGORITHMS.values()},
    **dict.fromkeys(("CategoricalHead", "QuantileHead"), "algorithms.value.distributional_heads"),
    "ScalarHead": "algorithms.value.heads",
    "EpsilonGreedy": "algorithms.value.epsilon_greedy",
    "Boltzmann": "algorithms.value.boltzmann",
    "Direct": "algorithms.imitation.heads.direct",
    "Deterministic": "algorithms.imitation.heads.deterministic",
    "Mixture": "algorithms.imitation.heads.mixture",
    "Latent": "algorithms.imitation.heads.latent",
    "Autoregressive": "algorithms.imitation.heads.autoregressive",
    "Flow": "algorithms.imitation.heads.flow",
    "Diffusion": "algorithms.imitation.heads.diffusion",
    "EMA": "optim.averaging",
    "Uniform": "data.replay.uniform",
    "Prioritized": "data.replay.prioritized",
    "Hindsight": "data.replay.hindsight",
    "NoisyLayers": "nn.noisy",
    "TorsoMaker": "nn.custom_torso",
    **dict.fromkeys(("RandomShooting", "CEM", "ICEM", "MPPI", "CMAES"), "planning.planners"),
    **dict.fromkeys(
        ("ILQR", "DDP", "MultipleShooting", "GradientShooting", "Collocation"), "planning.planners"
    ),
    **dict.fromkeys(("UCT", "PUCT"), "planning.tree.rules"),
    **dict.fromkeys(("GRU", "LSTM"), "nn.recurrent"),
    "Normalization": "estimators.running_statistics",
    "Transition": "data.transition",
    "bind_policy": "rollout",
    "rollout": "rollout",
    "evaluate": "rollout",
    "register_model": "models.true_models",
    "register_reward": "models.known_functions",
    "register_structure": "models.structures",
    "register_goal_reward": "environments.goals",
    "Algorithm": "algorithms.protocol",
    "algorithm": "algorithms.protocol",
    "progress": "training",
    "make": "environments",
    "train": "runs.train",
    "load": "runs.run",
    "resume": "runs.train",
    "Run": "runs.run",
    "preset": "presets",
    "record": "runs.record",
    "record_person": "runs.record_person",
    "Dataset": "data.dataset",
    "make_dataset": "data.dataset",
    "read_dataset": "storage.datasets.formats",
    "write_dataset": "storage.datasets.formats",
    "MinariWriter": "storage.datasets.minari_writer",
    "read_npz": "storage.datasets.npz",
    "write_npz": "storage.datasets.npz",
    "inspect_dataset": "runs.inspection",
    "measure_overestimation": "studies.overestimation",
    "measure_gradient_variance": "studies.gradient_variance",
    "plan": "studies.plan",
    "measure_open_loop": "studies.open_loop",
    "measure_error_growth": "studies.error_growth",
    "measure_demonstrations_needed": "studies.demonstrations_needed",
    "measure_model_uncertainty": "studies.model_uncertainty",
    "measure_modes_by_head": "studies.modes_by_head",
    "measure_calibration": "studies.calibration",
    "measure_chunk_lengths": "studies.chunk_lengths",
    "measure_horizon_and_replanning": "studies.horizon_and_replanning",
    "measure_action_dimension": "studies.action_dimension",
    "measure_distribution_shift": "studies.distribution_shift",
    "measure_model_error": "studies.model_error",
    "measure_risk": "studies.risk",
    "measure_system_identification": "studies.system_identification",
    "InvalidInput": "errors",
}

__all__ = [*_MODULE_OF, "__version__"]


def __getattr__(name):
    if name not in _MODULE_OF:
        raise AttributeError(f"module 'etude' has no attribute {name!r}")
    value = getattr(importlib.import_module(f"etude.{_MODULE_OF[name]}"), name)
    globals()[name] = value
    return value


def __dir__():
    return __all__
