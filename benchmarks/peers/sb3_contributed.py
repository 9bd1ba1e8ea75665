"""sb3-contrib on the work given as JSON; says how many steps its steady state took, and how
long."""

import sb3

if __name__ == "__main__":
    import sb3_contrib
    import torch

    sb3.run(
        sb3_contrib,
        {"relu": torch.nn.ReLU, "tanh": torch.nn.Tanh},
        ("sb3-contrib", "stable-baselines3", "torch", "gymnasium", "numpy"),
    )
