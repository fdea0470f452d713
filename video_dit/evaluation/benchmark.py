"""Our autoencoder against those of diffusers: cost, speed, memory, and what equal training time makes of each."""

import math
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from tqdm import tqdm

from video_dit.evaluation.candidates import Kind, Rival, check_size, ours, profile, published, shrunk
from video_dit.evaluation.equal_training import Footage, TrainOptions, load_footage, run_trials
from video_dit.evaluation.requirements import ASKED, requirements
from video_dit.evaluation.results import (
    HEADING,
    MIB,
    TRAINED_HEADING,
    Entry,
    Row,
    Trained,
    row_as_json,
    stream_as_json,
    trained_as_json,
)
from video_dit.evaluation.speed import (
    FRAME_RATE,
    SpeedOptions,
    Stream,
    in_own_process,
    measure_decode,
    measure_encode,
    measure_stream,
)
from video_dit.layers import find_device


@dataclass(frozen=True)
class VAEBenchmark:
    """What is compared.

    Args:
        configs: of tools/train_vae.py; the section ``model`` of each is ours.
        against: rivals, each in all ``kinds``: as published, or shrunk to the parameters of each of ours.
        speed: the clip and how it is computed.
        memory_seconds: lengths of clips that ours decodes as streams; none leaves that out.
        train: how all but the published ones are trained; None leaves that out.
    """

    configs: Sequence[str]
    against: Sequence[Rival]
    kinds: Sequence[Kind]
    speed: SpeedOptions
    memory_seconds: Sequence[float]
    train: TrainOptions | None


def benchmark_vae(options: VAEBenchmark, say: Callable[[str], None]) -> dict[str, Any]:
    """Read all clips, measure one after the other, each in a process of its own, then train one after the other.

    Args:
        options: what to compare.
        say: takes each line for people to read as soon as it is there.
    Returns:
        All figures, as JSON can hold them, with units in their names.
    Raises:
        ValueError: a config, a length, a size, the device or the manifest is no good.
    """
    find_device(options.speed.device)
    entries = entries_of(options)
    footage = footage_for(entries, options.train, say) if options.train else None
    s = options.speed
    place = f"{s.threads} threads of the CPU" if s.device == "cpu" else s.device
    measured = f"{s.num_frames} frames of {s.width}x{s.height} on {place}"
    say(f"{measured}, {str(s.dtype).removeprefix('torch.')}; random weights")
    say(HEADING)
    rows = []
    for entry in tqdm(entries, desc="speed", leave=False, disable=None):
        rows.append(measure(entry, s))
        say(rows[-1].line())
    streams = {entry.config: streams_of(entry, options, say) for entry in entries if entry.candidate.kind == "ours"}
    trained = train_all(entries, footage, options.train, say) if options.train and footage else []  # both or none
    wanted = requirements(rows, streams, trained)
    say(f"\nrequired at {ASKED}; measured at {measured}")
    for requirement in wanted:
        say(requirement.line())
    return {
        "settings": settings_of(options),
        "autoencoders": [row_as_json(row) for row in rows],
        "streams": {
            config: [stream_as_json(seconds, stream) for seconds, stream in found.items()]
            for config, found in streams.items()
        },
        "training": [trained_as_json(one) for one in trained],
        "requirements": [asdict(requirement) for requirement in wanted],
    }


def entries_of(options: VAEBenchmark) -> list[Entry]:
    """Everything that is measured, ours first; raises ValueError as `benchmark_vae` does."""
    s = options.speed
    found = []
    for config in options.configs:
        candidate = ours(config)
        found.append(Entry(candidate, profile(candidate, s.num_frames, s.height, s.width), config))
    own = tuple(found)
    for rival in options.against:
        chosen = [(published(rival), "")] if "published" in options.kinds else []
        if "shrunk" in options.kinds:
            chosen += [(shrunk(rival, entry.profile.parameters), entry.config) for entry in own]
        found += [Entry(c, profile(c, s.num_frames, s.height, s.width), config) for c, config in chosen]
    return found


def check_training_size(entry: Entry, train: TrainOptions) -> None:
    """Raises ValueError where an autoencoder cannot take the crops that it would be trained on."""
    p = entry.profile
    size = (train.frames, train.size, train.size)
    check_size(entry.candidate.name, *size, p.time_factor, p.space_factor, option="--train-")


def measure(entry: Entry, options: SpeedOptions) -> Row:
    """Decode and encode, each in its own process. One that fails does not end the others."""
    try:
        decode = in_own_process(measure_decode, entry.candidate, entry.profile.latent_shape, options)
        encode = in_own_process(measure_encode, entry.candidate, options)
    except (RuntimeError, MemoryError) as error:
        return Row(entry, None, None, reason(error))
    return Row(entry, decode, encode, None)


def reason(error: Exception) -> str:
    """What an error says, on one line."""
    return " ".join(str(error).split()) or type(error).__name__


def streams_of(entry: Entry, options: VAEBenchmark, say: Callable[[str], None]) -> dict[float, Stream | str]:
    """Clips of ours by their seconds; for those that failed, why."""
    found: dict[float, Stream | str] = {}
    for seconds in sorted(options.memory_seconds):
        try:
            stream = in_own_process(measure_stream, entry.candidate, seconds, options.speed)
        except (RuntimeError, MemoryError) as error:
            found[seconds] = reason(error)
            say(f"{entry.candidate.name}: {seconds:g} s streamed failed: {reason(error)}")
            continue
        found[seconds] = stream
        memory = f"peak {stream.memory.peak / MIB:.0f} MiB ({stream.memory.own / MIB:.0f} its own)"
        clip = f"{stream.frames} frames ({seconds:g} s) streamed in {stream.seconds:.1f} s"
        say(f"{entry.candidate.name}: {clip}, {memory}")
    return found


def trainable(entries: Sequence[Entry]) -> list[Entry]:
    """All but the published ones, which are too large."""
    return [entry for entry in entries if entry.candidate.kind != "published"]


def footage_for(entries: Sequence[Entry], options: TrainOptions, say: Callable[[str], None]) -> Footage:
    """The clips of `train_all`; raises ValueError where an autoencoder cannot take them, or the manifest is no good."""
    chosen = trainable(entries)
    for entry in chosen:
        check_training_size(entry, options)
    return load_footage(options, math.lcm(*(entry.profile.space_factor for entry in chosen)), say)


def train_all(
    entries: Sequence[Entry], footage: Footage, options: TrainOptions, say: Callable[[str], None]
) -> list[Trained]:
    """Trials of all that are trained, on the same clips. Those that diverge at every rate are left out."""
    chosen = trainable(entries)
    clips = f"{options.batch} clips of {options.frames} frames of {options.size}x{options.size}"
    say(f"\ntraining, {options.seconds:g} s each, steps of {clips}")
    found = []
    for entry in tqdm(chosen, desc="training", leave=False, disable=None):
        searched, final = run_trials(entry.candidate, footage, options, say)
        if final:
            found.append(Trained(entry, searched, final))
        else:
            say(f"{entry.candidate.name} diverged at every learning rate: give lower ones with --lr")
    say(TRAINED_HEADING)
    for trained in found:
        say(trained.line())
    return found


def settings_of(options: VAEBenchmark) -> dict[str, Any]:
    """What the figures depend on."""
    speed = asdict(options.speed) | {"dtype": str(options.speed.dtype).removeprefix("torch.")}
    train = asdict(options.train) if options.train else None
    if train and train["manifest"]:
        train["manifest"] = str(train["manifest"])
    return {"speed": speed, "stream_frames_per_second": FRAME_RATE, "train": train}
