"""Where the samples of a pack stand."""

from itertools import pairwise

from video_dit.tokens import Segments


def slices(segments: Segments) -> list[slice]:
    """One slice of tokens a segment."""
    return [slice(start, stop) for start, stop in pairwise(segments.bounds.tolist())]
