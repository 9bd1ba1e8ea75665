"""Pictures of the tasks in a plane: discs, lines and rectangles with soft edges, in NumPy."""

import numpy as np

Color = tuple[int, int, int]
FLOOR, GRID, WALL = (247, 245, 240), (232, 229, 221), (52, 60, 72)
# of the rim of what moves, of its way, and of itself
WHITE, TRAIL, POINT = (255, 255, 255), (120, 165, 215), (33, 102, 172)
START, SUCCESS, FAILURE = (176, 184, 196), (71, 160, 97), (203, 65, 60)
GOAL = (236, 134, 44)  # of a goal that is not reached


class Picture:
    """A picture of a rectangle in a plane.

    Positions (x, y), lengths and radii are in the units of the plane; y grows upward.

    Args:
        x, y: (low, high) of each coordinate. Those of x and the low y are at the centers of the
            outermost pixels, and the high y is within two pixels of the top.
        width: columns of the picture; its rows follow from the shape of the rectangle, an even
            number of them, as films want it.
        color: of the background.
    """

    def __init__(
        self, x: tuple[float, float], y: tuple[float, float], width: int = 320, color: Color = FLOOR
    ):
        self.low, self.scale = (x[0], y[0]), (width - 1) / (x[1] - x[0])  # pixels per unit
        rows = round((y[1] - y[0]) * self.scale) + 1
        self.pixels = np.empty((rows + rows % 2, width, 3))
        self.pixels[:] = color

    def place(self, position: tuple[float, float] | np.ndarray) -> tuple[float, float]:
        """The (row, column) of a position, fractions included."""
        column, height = (
            (float(coordinate) - low) * self.scale
            for coordinate, low in zip(position, self.low, strict=True)
        )
        return len(self.pixels) - 1 - height, column  # rows count from above

    def rectangle(
        self, first: tuple[float, float], second: tuple[float, float], color: Color
    ) -> None:
        """Paint a rectangle, whole pixels, between two opposite corners."""
        rows, columns = (
            slice(max(0, round(min(ends))), max(0, round(max(ends)) + 1))
            for ends in zip(self.place(first), self.place(second), strict=True)
        )
        self.pixels[rows, columns] = color

    def disc(
        self,
        center: tuple[float, float] | np.ndarray,
        radius: float,
        color: Color,
        opacity: float = 1,
    ) -> None:
        """Paint a disc."""
        self.line(center, center, 2 * radius, color, opacity)

    def line(
        self,
        start: tuple[float, float] | np.ndarray,
        end: tuple[float, float] | np.ndarray,
        thickness: float,
        color: Color,
        opacity: float = 1,
    ) -> None:
        """Paint a line with round ends."""
        first, last = np.array(self.place(start)), np.array(self.place(end))
        radius = thickness / 2 * self.scale
        rows, columns = (
            np.arange(max(0, int(min(ends) - radius) - 1), min(size, int(max(ends) + radius) + 3))
            for *ends, size in zip(first, last, self.pixels.shape[:2], strict=True)
        )
        if not len(rows) or not len(columns):
            return
        grid = np.stack(np.meshgrid(rows, columns, indexing="ij"), -1)
        along, length_squared = last - first, max(((last - first) ** 2).sum(), 1e-9)
        nearest = np.clip((grid - first) @ along / length_squared, 0, 1)  # on the line, 0 to 1
        distance = np.linalg.norm(grid - first - nearest[..., None] * along, axis=-1)
        coverage = opacity * np.clip(radius - distance + 0.5, 0, 1)[..., None]
        window = self.pixels[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
        window += coverage * (np.array(color) - window)

    def to_uint8(self) -> np.ndarray:
        """The picture, uint8 [row, column, 3]."""
        return self.pixels.round().astype(np.uint8)
