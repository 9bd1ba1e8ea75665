"""Pictures of tasks: what is painted is where it should be, and what is outside is left out."""

import numpy as np

from etude.environments.tasks.picture import Picture

WHITE, RED = (255, 255, 255), (200, 0, 0)


def test_places_are_those_of_the_pixels():
    picture = Picture((-1, 3), (0, 2), width=201, color=WHITE)
    assert picture.to_uint8().shape == (102, 201, 3)  # rows are even
    assert picture.place((-1, 0)) == (101, 0) and picture.place((3, 2)) == (1, 200)
    assert (picture.to_uint8() == 255).all()


def test_what_is_painted_has_the_area_that_it_should():
    """Soft edges add up to the area, in units of the plane."""
    for paint, area in (
        (lambda p: p.disc((1, 1), 0.5, RED), np.pi / 4),
        (lambda p: p.disc((1, 1), 0.5, RED, opacity=0.4), 0.4 * np.pi / 4),
        (lambda p: p.line((0, 0.5), (1.5, 1.5), 0.2, RED), 0.2 * np.hypot(1.5, 1) + np.pi / 100),
        (lambda p: p.rectangle((0, 1.5), (1, 0.5), RED), 1.0),
        (lambda p: p.rectangle((-2, -1), (0, 1), RED), 1.0),  # a quarter of it is inside
        (lambda p: p.rectangle((-3, -1), (-2, 1), RED), 0),
        (lambda p: p.disc((-1, 0), 0.5, RED), np.pi / 16),  # and another
        (lambda p: p.disc((9, 9), 0.5, RED), 0),
        (lambda p: p.line((-2, -2), (-3, 1), 0.5, RED), 0),
    ):
        picture = Picture((-1, 3), (0, 2), width=401, color=WHITE)
        paint(picture)
        painted = ((WHITE - picture.pixels) / (np.array(WHITE) - RED))[..., 1]
        assert abs(painted.sum() / 100**2 - area) < 0.03
