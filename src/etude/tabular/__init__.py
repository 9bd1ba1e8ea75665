"""Decision processes small enough to write down, and their exact answers: what everything learned
is judged against."""
