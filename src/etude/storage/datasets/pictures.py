"""Pictures that Minari compressed as JPEG, decoded once it is known how large they are."""

import io
from collections.abc import Callable, Iterable

import numpy as np

from etude.errors import InvalidInput
from etude.spaces import Box, Space
from etude.storage.files import CorruptFile

JPEG_NOTE = (
    "its pictures were compressed with loss (JPEG), so they are not those that the environment gave"
)
_JPEG_SIDE = 32  # pixels; what is smaller, Minari does not compress as a picture


def is_picture(space: Space) -> bool:
    """Whether Minari may keep the values of a space as JPEG pictures."""
    return (
        isinstance(space, Box)
        and len(space.shape) in (2, 3)
        and min(space.shape[:2]) >= _JPEG_SIDE
        and (space.dtype, space.low, space.high) == ("uint8", 0, 255)
    )


def decode_pictures(
    rows: Iterable[bytes], name: str, space: Box, spend: Callable[[int, str], None]
) -> np.ndarray:
    """The pictures of rows of JPEG, [row, *shape of the space]; others are refused undecoded.

    `spend` is told how many bytes each picture takes, and may refuse it.
    """
    from PIL import Image

    pictures, (height, width) = [], space.shape[:2]
    mode = "L" if space.shape[2:] == () else "RGB"
    for row, data in enumerate(rows):
        try:
            with Image.open(io.BytesIO(data), formats=("JPEG",)) as image:
                if (*image.size, image.mode) != (width, height, mode):
                    raise CorruptFile(
                        f"row {row} of {name!r} is a picture of {image.width} by {image.height}, "
                        f"{image.mode}, and its space is {space}"
                    )
                spend(height * width * len(mode), name)
                pictures.append(np.asarray(image))
        except (OSError, SyntaxError, ValueError) as error:
            if isinstance(error, InvalidInput):
                raise
            reason = f"{error}".partition(" <")[0]  # an object of Python's would follow
            raise CorruptFile(f"row {row} of {name!r} is not a whole JPEG ({reason})") from error
    return np.stack(pictures) if pictures else np.zeros((0, *space.shape), np.uint8)
