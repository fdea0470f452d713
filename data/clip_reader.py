"""Clips with their captions, read by workers ahead of what encodes them."""

import errno
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from torch.utils.data import Dataset

from data.dataset import Clip, ClipSource
from data.packing import load_ahead
from data.shards import Unread
from data.video_limits import VideoError

FAILURES = (errno.EIO, errno.ESTALE, errno.ETIMEDOUT)  # of disks and networks, not of files


@dataclass(frozen=True)
class CaptionedClip:
    """texts: its captions, each once."""

    clip: Clip
    texts: list[str]


class ClipReader(Dataset):
    """Clip ``index`` of a source and so many of its captions; or why the clip cannot be read. The failure of a disk or
    network, which says nothing of the clip, is given as an OSError."""

    def __init__(self, source: ClipSource, wordings: int) -> None:
        self.source, self.wordings = source, wordings

    def __getitem__(self, index: int) -> CaptionedClip | Unread | OSError:
        try:
            clip = self.source.load(index)
        except VideoError as error:
            if not error.path.exists() or getattr(error.__cause__, "errno", None) in FAILURES:
                return OSError(str(error))
            return Unread(index, str(error))
        texts = dict.fromkeys(self.source.text(index, epoch) for epoch in range(self.wordings))
        return CaptionedClip(clip, list(texts))


def read_clips(
    source: ClipSource, indices: Sequence[int], wordings: int, workers: int
) -> Iterator[tuple[int, CaptionedClip | Unread]]:
    """Indices with what `ClipReader` gives for them, in order, by ``workers`` processes (0: by this one).

    Raises:
        OSError: a disk or network failed that may be back.
    """
    for index, read in zip(indices, load_ahead(ClipReader(source, wordings), indices, workers), strict=True):
        if isinstance(read, OSError):
            raise read
        yield index, read
