"""What learns nothing: planners as policies, the random policy, controllers written by hand."""
