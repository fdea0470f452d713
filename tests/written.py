"""What tools/generate.py wrote into the folder that a test runs it in."""

from pathlib import Path

import imageio.v3 as iio
import numpy as np

from data.video import read_video


def names() -> list[str]:
    return sorted(str(path) for path in Path().rglob("*") if path.is_file())


def read(path: Path) -> np.ndarray:
    """Frames (t, h, w, 3) of whatever was written."""
    if path.is_dir():
        return np.stack([iio.imread(file) for file in sorted(path.iterdir())])
    if path.suffix == ".webp":
        return iio.imread(path, index=..., plugin="pillow", mode="RGB")
    return read_video(path).frames.numpy()
