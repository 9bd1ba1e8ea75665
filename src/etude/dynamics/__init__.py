"""Equations of motion, one system a module: what environments step and planners plan on.

Each module has

    derivative(state, control, *, parameters) -> dx/dt [n]     of a state [n] under a control [m]

or, where the system is defined in discrete time or a step of it is exact,

    next_state(state, control, *, parameters) -> state [n]     a step later, the control held

as pure, differentiable functions. Parameters are numbers or arrays of shape [], so that `vmap` can
sweep them; their defaults, and costs, rewards and ends of episodes, belong to those that call.
Units are SI where no others are given: m, s, kg, N, rad. The functions keep their order of
operations: programs that are compiled from them give the same bits from version to version.
"""
