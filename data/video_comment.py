"""The comment that `data.video_write.write_video` leaves in a file."""

from pathlib import Path

import av
from av.error import FFmpegError

from data.video_limits import VideoError


def read_comment(path: str | Path) -> str | None:
    """The comment of an .mp4 or .webm file, or of any other that has one; None where it has none.

    Raises:
        VideoError: the file is missing or no video.
    """
    path = Path(path)
    if not path.is_file():
        raise VideoError(path, "no such file")
    try:
        with av.open(path.absolute(), metadata_errors="replace") as container:
            tags = {name.lower(): text for name, text in container.metadata.items()}  # Matroska has them in capitals
    except (FFmpegError, OSError) as error:
        raise VideoError(path, f"not a video ({error.strerror})") from error
    return tags.get("comment")
