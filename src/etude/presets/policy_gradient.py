"""Presets of policy gradient methods that learn from complete episodes."""

from etude.algorithms.policy_gradient.reinforce import OffPolicyGradient, Reinforce
from etude.presets.preset import Preset, Presets

PRESETS: Presets = {
    # learns from 200 episodes; tuned here
    ("reinforce", "CartPole-v1"): Preset(
        Reinforce(
            learning_rate=5e-3,
            value_learning_rate=5e-3,
            discount=0.99,
            hidden=(128,),
            batch_episodes=2,
            max_episodes=200,
            capacity=1_024,
            value_steps=20,
            rollout_length=1,
        ),
        1,
        100_000,
    ),
    ("off-policy-gradient", "CartPole-v1"): Preset(
        OffPolicyGradient(learning_rate=5e-4), 1, 100_000
    ),
    # batches of 5,000 steps, two layers of 32 and 5 gradient steps of the baseline, as in CS 285
    ("reinforce", "HalfCheetah-v5"): Preset(
        Reinforce(
            learning_rate=1e-2,
            value_learning_rate=1e-2,
            discount=0.95,
            hidden=(32, 32),
            batch_steps=5_000,
            capacity=10_000,
            value_steps=5,
            normalize_advantage=False,
            rollout_length=1_000,
        ),
        1,
        500_000,
    ),
}
