"""Finding the best of what can be tried: maximisers of a function in a box, with and without a model behind it."""
