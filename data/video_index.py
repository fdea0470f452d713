"""The time stamps of a video's frames, found by demuxing alone: which are shown, when, and which are keys.

Apart from `data.video` so that each file keeps to one thing; only `data.video` opens files.
"""

from dataclasses import dataclass
from fractions import Fraction
from functools import cached_property

import numpy as np
from av.container import InputContainer
from av.error import FFmpegError

from data.video_limits import Stopwatch

PEEKED = ("mpeg4", "vp8", "vp9")  # whose packets may show nothing
MPEG4_PICTURE = b"\0\0\1\xb6"  # the start code of a picture (ISO/IEC 14496-2)


@dataclass(frozen=True)
class StampIndex:
    """`stamps`: of the frames shown, rising, in units of `time_base` seconds; empty if the file shows none.
    `keys`: the stamps of those that decoding can start from. `last_duration`: how long the last frame stays,
    in the same units. `numbered`: the file has no stamps, or only what FFmpeg makes up for DivX's packets of
    two frames, so frames were counted. `damage`: why the file ends early, if it does."""

    stamps: list[int]
    keys: list[int]
    time_base: Fraction
    last_duration: int
    header_rate: Fraction | None
    codec: str
    numbered: bool
    damage: str | None

    @cached_property
    def times(self) -> np.ndarray:
        """Seconds from the first frame `(n,)`."""
        return (np.array(self.stamps) - self.stamps[0]) * float(self.time_base)

    @property
    def end(self) -> float:
        """Seconds from the first frame at which the last one leaves the screen."""
        return float((self.stamps[-1] - self.stamps[0] + self.last_duration) * self.time_base)

    @property
    def frame_rate(self) -> float:
        """The header's average rate if the stamps bear it out (they may be rounded), else the stamps'."""
        measured = len(self.stamps) / self.end
        header = float(self.header_rate or 0)
        return header if abs(header - measured) < 0.02 * measured else measured

    @property
    def variable(self) -> bool:
        """Whether some interval differs from the usual one by more than a twentieth, and than rounding."""
        intervals = np.diff(self.times)
        if len(intervals) == 0:
            return False
        usual = float(np.median(intervals))
        return bool((np.abs(intervals - usual) > max(0.05 * usual, 2.5 * float(self.time_base))).any())


def read_index(container: InputContainer, watch: Stopwatch | None = None) -> StampIndex:
    """Demux the first video stream of an open container to its end, within the limits of `watch`."""
    stream = container.streams.video[0]
    codec = stream.codec_context.codec.canonical_name
    damage: str | None = None
    packets: list[tuple[int | None, int, bool]] = []
    count = 0
    packed = False
    try:
        for packet in container.demux(stream):
            if packet.size == 0:
                continue
            count += 1
            if watch:
                watch.check(packets=1)
            packed = packed or (codec == "mpeg4" and bytes(packet).count(MPEG4_PICTURE) > 1)
            if packet.is_corrupt:
                damage = "cut short in the middle of a frame"
            elif not packet.is_discard and (
                codec not in PEEKED or is_shown(codec, bytes(packet))
            ):  # edit lists discard
                packets.append((packet.pts, packet.duration or 0, packet.is_keyframe))
    except FFmpegError as error:
        damage = f"the file is damaged ({error.strerror})"
    if stream.frames > count and "mp4" in container.format.name:
        damage = f"cut short: it should have {stream.frames} frames"
    rate = stream.average_rate or stream.guessed_rate
    numbered = packed or any(pts is None for pts, _, _ in packets)
    if numbered:
        time_base = 1 / (rate or Fraction(25))
        stamped = [(i, 1, i == 0) for i in range(len(packets))]
    else:
        time_base = stream.time_base or Fraction(1, 1000)
        stamped = sorted((pts, duration, is_key) for pts, duration, is_key in packets if pts is not None)
    stamps = sorted({pts for pts, _, _ in stamped})
    usual = int(np.median(np.diff(stamps))) if len(stamps) > 1 else round(1 / ((rate or 25) * time_base))
    last_duration = stamped[-1][1] if stamped else 0
    return StampIndex(
        stamps=stamps,
        keys=sorted({pts for pts, _, is_key in stamped if is_key}),
        time_base=time_base,
        last_duration=last_duration if 2 * last_duration > usual else max(1, usual),
        header_rate=rate,
        codec=codec,
        numbered=numbered,
        damage=damage,
    )


def is_shown(codec: str, packet: bytes) -> bool:
    """Whether a packet puts a frame on the screen. VP8 and VP9 may keep hidden reference frames in packets of
    their own; the flag is in the first bytes (RFC 6386 section 9.1; VP9 bitstream section 6.2). DivX put packets
    without a picture in place of frames left out."""
    if codec == "vp8":
        return bool(packet[0] & 0x10)
    if codec == "mpeg4":
        return MPEG4_PICTURE in packet
    if codec == "vp9" and packet[-1] & 0xE0 != 0xC0:  # not a superframe, which always ends in a shown frame
        shift = 1 if packet[0] & 0x30 == 0x30 else 0  # profile 3 has one more bit in front
        shows_existing, shows_this = 0x08 >> shift, 0x02 >> shift
        return bool(packet[0] & (shows_existing | shows_this))
    return True
