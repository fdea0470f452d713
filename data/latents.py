"""A cache of tensors on disk: what is slow to make (renders, decoded video, latents) is made once."""

import hashlib
import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from data.sheet import replacing

logger = logging.getLogger(__name__)
Found = TypeVar("Found")


class TensorCache:
    """Safetensors files named by a hash of their key, below one folder. Many processes may share it.

    A file that is damaged counts as absent; the next `put` replaces it.

    Args:
        folder: created when first written to; None keeps nothing.
        space: what all keys have in common, such as the hash of the codec's weights.
    """

    def __init__(self, folder: Path | None, space: str = "") -> None:
        self.folder = folder
        self.space = space
        self.keeps = True

    def get(self, key: str) -> dict[str, Tensor] | None:
        """The tensors stored under ``key``, or None."""
        return self._read(key, lambda file: {name: file.get_tensor(name) for name in file.keys()})  # noqa: SIM118

    def get_part(self, key: str, name: str, part: tuple[slice, ...]) -> Tensor | None:
        """``part`` of the tensor ``name`` stored under ``key``, or None. No more than that is read."""
        return self._read(key, lambda file: file.get_slice(name)[part])

    def put(self, key: str, tensors: dict[str, Tensor]) -> None:
        """Store under ``key``; a file is complete or absent. Where that fails, as on a full disk, a warning says so and
        no more is stored: a cache ends no run."""
        path = self._path(key)
        if path is None or not self.keeps:
            return
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            with replacing(path) as draft:
                save_file({name: t.contiguous() for name, t in tensors.items()}, draft)
        except (OSError, SafetensorError) as error:
            logger.warning("no more clips are kept in data.cache=%s: %s", self.folder, error)
            self.keeps = False

    def _read(self, key: str, take: Callable[[Any], Found]) -> Found | None:
        path = self._path(key)
        if path is None or not path.is_file():
            return None
        try:
            with safe_open(path, framework="pt") as file:
                return take(file)
        except SafetensorError:
            return None

    def _path(self, key: str) -> Path | None:
        if self.folder is None:
            return None
        name = hashlib.blake2b(f"{self.space}|{key}".encode(), digest_size=16).hexdigest()
        return self.folder / name[:2] / f"{name}.safetensors"
