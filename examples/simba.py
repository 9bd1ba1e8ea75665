"""A residual torso after SimBa (Lee et al., 2024) for SAC and PPO, beside the plain networks.

    python examples/simba.py                                 # a small budget, to see that it works
    python examples/simba.py --algorithm ppo --seeds 8 --steps 1000000

Observation → linear embedding → blocks of x + MLP(LayerNorm(x)) → LayerNorm → the algorithm's head.
The paper also normalizes observations by running statistics, which a torso cannot hold. Its critics
are wider and deeper than its policy; here all networks are the size of its policy.
"""

import argparse
from typing import Any

import equinox as eqx
import jax

import etude
from etude.nn.linear import affine
from etude.nn.networks import make_encoder


class ResidualBlock(eqx.Module):
    """x + MLP(LayerNorm(x)), whose hidden layer is four times as wide (Lee et al., 2024)."""

    norm: eqx.nn.LayerNorm
    expand: eqx.nn.Linear
    shrink: eqx.nn.Linear

    def __init__(self, key, width):
        key_expand, key_shrink = jax.random.split(key)
        self.norm = eqx.nn.LayerNorm(width)
        self.expand = eqx.nn.Linear(width, 4 * width, key=key_expand)
        self.shrink = eqx.nn.Linear(4 * width, width, key=key_shrink)

    def __call__(self, x):
        # `affine` applies a layer with a gradient that is fast on a CPU
        return x + affine(self.shrink, jax.nn.relu(affine(self.expand, self.norm(x))))


class SimBa(eqx.Module):
    """One observation to features [width]; the class itself is the TorsoMaker."""

    encoder: Any  # any kind of observation, or a critic's (observation, action), as one vector
    embedding: eqx.nn.Linear
    blocks: tuple[ResidualBlock, ...]
    norm: eqx.nn.LayerNorm

    def __init__(self, key, space, width=128, num_blocks=1):
        key_encoder, key_embedding, *keys = jax.random.split(key, 2 + num_blocks)
        self.encoder = make_encoder(key_encoder, space)
        num_inputs = jax.eval_shape(self.encoder, space.zeros()).size
        self.embedding = eqx.nn.Linear(num_inputs, width, key=key_embedding)
        self.blocks = tuple(ResidualBlock(key_block, width) for key_block in keys)
        self.norm = eqx.nn.LayerNorm(width)

    def __call__(self, observation):
        x = affine(self.embedding, self.encoder(observation))
        for block in self.blocks:
            x = block(x)
        return self.norm(x)


TASKS = {"sac": ("Pendulum-v1", 4_000), "ppo": ("LunarLander-v3", 100_000)}  # a small budget


def compare(algorithm: str, steps: int | None, seeds: int, **options: Any) -> None:
    """Train an algorithm with its own networks and with SimBa; print the return of each.

    All other settings are those of its preset.
    """
    environment, small_budget = TASKS[algorithm]
    for name, torso in (("plain", None), ("SimBa", SimBa)):
        run = etude.train(
            algorithm, environment, torso=torso, steps=steps or small_budget, seeds=seeds, **options
        )
        evaluation = run.summary["evaluation"]
        low, high = evaluation["ci95"]
        print(
            f"{algorithm} on {environment}, {name}: IQM {evaluation['iqm']:.1f}, "
            f"95 % interval {low:.1f} to {high:.1f}, {seeds} seeds"
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--algorithm", choices=TASKS, help="one of the two; default both")
    parser.add_argument("--steps", type=int, help="environment steps of each seed")
    parser.add_argument("--seeds", type=int, default=2)
    arguments = parser.parse_args()
    for algorithm in [arguments.algorithm] if arguments.algorithm else TASKS:
        compare(algorithm, arguments.steps, arguments.seeds)


if __name__ == "__main__":
    main()
