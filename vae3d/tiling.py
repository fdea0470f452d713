"""Large frames in tiles: the numbers of the whole frame, in the memory of one tile.

Nothing in the autoencoder looks further than its convolutions reach, so a tile that is given that many latent pixels
more on each side (its halo) comes out as it does in the whole frame. There is nothing to blend.
"""

from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise

from torch import Tensor

from vae3d.layers import State

TiledState = tuple[State, ...]
"""The state of each tile, row by row; a frame in one piece has one."""


@dataclass(frozen=True)
class Span:
    """Part of an axis, in latent pixels: computed from ``start`` to ``stop``, kept from ``first`` to ``last``."""

    start: int
    stop: int
    first: int
    last: int


def spans(size: int, tile: int | None, halo: int) -> list[Span]:
    """Cut an axis of ``size`` latent pixels into equal tiles of at most ``tile`` (None: one), each with its halo."""
    count = 1 if tile is None else -(-size // tile)
    edges = [size * i // count for i in range(count + 1)]
    return [Span(max(0, a - halo), min(size, b + halo), a, b) for a, b in pairwise(edges)]


def run_tiled(
    run: Callable[[Tensor, State | None], tuple[Tensor, State]],
    x: Tensor,
    state: TiledState | None,
    tile: int | None,
    halo: int,
    scale_in: int,
    scale_out: int,
) -> tuple[Tensor, TiledState]:
    """Run the encoder or the decoder over the tiles of a chunk.

    Args:
        run: takes ``(b, c, t, h, w)`` and its state.
        x: ``(b, c, t, h, w)``, height and width ``scale_in`` per latent pixel; those of the result ``scale_out``.
        state: what the chunk before returned, None at the start of a clip.
        tile, halo: latent pixels along each axis; see `spans`.
    Raises:
        ValueError: the state is of other tiles.
    """
    height, width = x.shape[3] // scale_in, x.shape[4] // scale_in
    places = [(row, column) for row in spans(height, tile, halo) for column in spans(width, tile, halo)]
    if state is not None and len(state) != len(places):
        raise ValueError(
            f"tiling was changed within a clip, from {len(state)} tiles to {len(places)}: start a new stream after it"
        )
    whole: Tensor | None = None
    states: list[State] = []
    for number, (row, column) in enumerate(places):
        piece = x[..., _scaled(row.start, row.stop, scale_in), _scaled(column.start, column.stop, scale_in)]
        y, new = run(piece, None if state is None else state[number])
        states.append(new)
        if len(places) == 1:
            return y, tuple(states)
        if whole is None:
            whole = y.new_empty(*y.shape[:3], height * scale_out, width * scale_out)
        kept = y[
            ...,
            _scaled(row.first - row.start, row.last - row.start, scale_out),
            _scaled(column.first - column.start, column.last - column.start, scale_out),
        ]
        whole[..., _scaled(row.first, row.last, scale_out), _scaled(column.first, column.last, scale_out)] = kept
    assert whole is not None
    return whole, tuple(states)


def _scaled(first: int, last: int, scale: int) -> slice:
    return slice(first * scale, last * scale)
