"""Actor-critic algorithms: on-policy actor-critic, A2C, soft actor-critic (SAC)."""
