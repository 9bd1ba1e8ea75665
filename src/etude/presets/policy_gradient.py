"""Presets of policy gradients from whole episodes."""

from etude.algorithms.policy_gradient.reinforce import OffPolicyGradient, Reinforce
from etude.presets.preset import Preset, Presets

PRESETS: Presets = {
    # NPFL139's task: the best policy that 200 episodes make; its settings found by trial
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
    # CS 285's homework 2: batches of 5,000 steps, a network of 2 × 32 and 5 steps of the baseline
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
