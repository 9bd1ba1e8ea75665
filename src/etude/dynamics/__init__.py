"""Equations of motion of classic control systems, shared by environments and control problems.

Each module has one system, with the function

    derivative(state, control, *, parameters) -> dx/dt [n]     of a state [n] and a control [m]

or, where the system is defined in discrete time or has an exact step,

    next_state(state, control, *, parameters) -> state [n]     after a step of constant control

Both are pure and differentiable. Parameters are numbers or arrays of shape [], so that `vmap` can
sweep them; the callers define their defaults, and costs, rewards and terminations. Units are SI
unless stated: m, s, kg, N, rad. The order of operations in these functions must not change:
programs compiled from them give the same bits from version to version.
"""
