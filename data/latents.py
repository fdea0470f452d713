"""A cache of tensors on disk: what is slow to make (renders, decoded video, latents) is made once."""

import hashlib
import os
from pathlib import Path

from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor


class TensorCache:
    """Safetensors files named by a hash of their key, below one folder. Many processes may share it.

    Args:
        folder: created when first written to; None keeps nothing.
        space: what all keys have in common, such as the hash of the codec's weights.
    """

    def __init__(self, folder: Path | None, space: str = "") -> None:
        self.folder = folder
        self.space = space

    def get(self, key: str) -> dict[str, Tensor] | None:
        """The tensors stored under ``key``, or None."""
        path = self._path(key)
        if path is None or not path.is_file():
            return None
        with safe_open(path, framework="pt") as file:
            return {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (not a mapping)

    def get_part(self, key: str, name: str, part: tuple[slice, ...]) -> Tensor | None:
        """``part`` of the tensor ``name`` stored under ``key``, or None. No more than that is read."""
        path = self._path(key)
        if path is None or not path.is_file():
            return None
        with safe_open(path, framework="pt") as file:
            return file.get_slice(name)[part]

    def put(self, key: str, tensors: dict[str, Tensor]) -> None:
        """Store under ``key``; a file is complete or absent."""
        path = self._path(key)
        if path is None:
            return
        path.parent.mkdir(parents=True, exist_ok=True)
        draft = path.with_suffix(f".{os.getpid()}.part")
        try:
            save_file({name: t.contiguous() for name, t in tensors.items()}, draft)
            draft.replace(path)
        finally:
            draft.unlink(missing_ok=True)  # of a full disk

    def _path(self, key: str) -> Path | None:
        if self.folder is None:
            return None
        name = hashlib.blake2b(f"{self.space}|{key}".encode(), digest_size=16).hexdigest()
        return self.folder / name[:2] / f"{name}.safetensors"
