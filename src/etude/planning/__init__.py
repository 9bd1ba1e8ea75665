"""Planning: maximizers in a box, optimal control with and without derivatives, and search in a
tree."""
