"""Train sb3-contrib on a workload given as JSON; print steps and seconds of steady state."""

import sb3

if __name__ == "__main__":
    import sb3_contrib
    import torch

    sb3.run(
        sb3_contrib,
        {"relu": torch.nn.ReLU, "tanh": torch.nn.Tanh},
        ("sb3-contrib", "stable-baselines3", "torch", "gymnasium", "numpy"),
    )
