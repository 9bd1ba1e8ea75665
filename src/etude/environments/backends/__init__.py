"""What makes environments step: JAX, EnvPool, and Gymnasium in this or in other processes."""
