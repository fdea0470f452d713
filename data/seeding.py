"""Random streams as pure functions of a key, so that randomness never depends on rank, order or a global generator."""

import hashlib

import torch


def keyed_generator(*key: str | int) -> torch.Generator:
    """A CPU generator seeded by a stable hash of ``key``, such as (seed, step, sample id, purpose)."""
    digest = hashlib.blake2b(repr(key).encode(), digest_size=8).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest, "big") >> 1)


def draw_integer(high: int, generator: torch.Generator) -> int:
    """A uniform integer in [0, high)."""
    return int(torch.randint(high, (), generator=generator))
