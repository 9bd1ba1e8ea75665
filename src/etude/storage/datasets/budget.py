"""How much memory the arrays of a file may take, so that one that declares too much is refused."""

from pathlib import Path

from etude.storage.files import CorruptFile

# The arrays of a file may take SMALL bytes in memory, or LARGEST_RATIO times the size of the file,
# whichever is more. DEFLATE reaches a ratio of 1,032 on zeros, so a large file of zeros alone is
# refused.
SMALL, LARGEST_RATIO = 2**28, 200


class ReadBudget:
    """How many bytes may still be read from a file, or from the files of a folder."""

    def __init__(self, path: Path, size: int):
        self.path, self.size = Path(path), size
        self.limit = self.left = max(SMALL, LARGEST_RATIO * size)

    def spend(self, amount: int, name: str) -> None:
        """Count the bytes of an array; raises CorruptFile where they are too many."""
        self.left -= amount
        if self.left < 0:
            raise CorruptFile(
                f"with {name!r} its arrays would take more than {self.limit:,} bytes, and of "
                f"{self.size:,} bytes on the disk no more are read; if it is sound, write it "
                "without compression"
            )
