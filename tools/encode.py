"""Encode the clips of a training run once, into shards that many runs read.

deepspeed tools/encode.py --config sora_tiny.yaml --out latents data.manifest=clips/index.csv
python tools/encode.py --config sora_tiny.yaml --out latents

``train.py … data.latents=latents`` then trains on them without opening a video. All ranks share the shards out, and the
same command goes on where it was stopped, with any number of ranks: a shard is whole or absent. Clips that cannot be
read are left out with the reason. ``data.workers`` processes of each rank render or read ahead. Of the world's clips
``--wordings`` captions are stored. A frozen text encoder's embeddings of the captions are stored as well
(``text.encoder=…``).
"""

import argparse
import json
import logging
import os
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING

from data.options import at_least

if TYPE_CHECKING:  # torch takes seconds to import
    from torch import Tensor

    from data.clip_reader import CaptionedClip
    from data.dataset import ClipShape, ClipSource
    from data.shards import Unread
    from vae3d import LatentCodec
    from video_dit.tokens import Segments

logger = logging.getLogger("encode.py")


def encode(args: argparse.Namespace) -> None:
    """Write this rank's share of the shards that are missing, and the index once all are there."""
    import torch
    from tqdm import tqdm

    from data.clip_reader import read_clips
    from data.dataset import WORLD_VERSION
    from data.shards import is_written, read_left_out, shard_name, write_index, write_shard
    from data.sheet import checked_folder, replacing
    from vae3d import LatentCodec
    from video_dit.config import RunConfig, load_config
    from video_dit.layers import fast_dtype
    from video_dit.sources import clip_source, encoding
    from video_dit.text import encode_prompts, load_text_encoder, text_fingerprint

    checked_folder(f"--out {args.out}", args.out)
    rank, world = int(os.environ.get("RANK", 0)), int(os.environ.get("WORLD_SIZE", 1))
    local_rank = int(os.environ.get("LOCAL_RANK", 0))
    device = torch.device("cuda", local_rank) if torch.cuda.is_available() else torch.device("cpu")
    config = load_config(RunConfig, args.config, args.overrides)
    codec = LatentCodec.from_pretrained(config.vae.path, dtype=torch.bfloat16)
    codec.vae.to(device, fast_dtype(device))
    source = clip_source(config, codec, "train")
    text = load_text_encoder(config.text) if config.text.encoder else None
    told_by = text_fingerprint(*text) if text else ""
    embed = partial(encode_prompts, text[0], text[1].to(device)) if text else None  # type: ignore[arg-type]
    shards = -(-len(source) // args.shard_size)
    settings = {
        **encoding(config, codec),
        "text_encoder": told_by,
        **({} if config.data.manifest else {"world": WORLD_VERSION}),
        "clips": len(source),
        "shard_size": args.shard_size,
        "wordings": args.wordings,
    }
    args.out.mkdir(parents=True, exist_ok=True)
    check_folder(args.out, settings)
    with replacing(args.out / "settings.json") as draft:
        draft.write_text(json.dumps(settings) + "\n", encoding="utf-8")
    began = time.perf_counter()
    missing = [number for number in range(rank, shards, world) if not is_written(args.out, number)]
    for number in missing:  # what a killed run left half written
        for draft in args.out.glob(f".{shard_name(number)}*.tmp"):
            draft.unlink()
    members = {n: range(n * args.shard_size, min((n + 1) * args.shard_size, len(source))) for n in missing}
    read = read_clips(source, [n for indices in members.values() for n in indices], args.wordings, config.data.workers)
    clips = encoded(codec, embed, source, read)
    done = 0
    with tqdm(total=len(missing) * args.shard_size, unit="clip", disable=None if rank == 0 else True) as bar:
        for number, indices in members.items():
            done += len(write_shard(args.out, number, islice(clips, len(indices))))
            bar.update(args.shard_size)
    seconds = time.perf_counter() - began
    print(f"rank {rank}: {done} clips in {len(missing)} of {shards} shards, {seconds:.1f} s: {args.out}")
    if write_index(args.out, shards, settings):
        left_out = read_left_out(args.out)
        print(
            f"all shards are there; {len(left_out)} of {len(source)} clips are damaged: {args.out / 'left_out.jsonl'}"
        )


def encoded(
    codec: "LatentCodec",
    embed: "Callable[[list[str]], tuple[Tensor, Segments]] | None",
    source: "ClipSource",
    read: "Iterable[tuple[int, CaptionedClip | Unread]]",
) -> "Iterator[tuple[int, list[str], ClipShape, dict[str, Tensor]] | Unread]":
    """Index, captions, shape and tensors of each clip that was read; what ``embed`` makes of its captions too."""
    import torch

    from data.seeding import keyed_generator
    from data.shards import Unread
    from video_dit.batch import encode_clip

    for index, found in read:
        if isinstance(found, Unread):
            logger.warning("left out: %s", found.reason)
            yield found
            continue
        tensors = encode_clip(codec, found.clip, keyed_generator(source.key(index), "encode"))
        if embed:
            with torch.no_grad():
                embeds = [embed([text])[0].bfloat16().cpu() for text in found.texts]
            tensors |= {f"prompt_embeds.{number}": rows for number, rows in enumerate(embeds)}
        yield index, found.texts, source.shape(index), tensors


def check_folder(folder: Path, settings: dict) -> None:
    """ValueError where the folder holds something else than shards of these settings."""
    file = folder / "settings.json"
    names = [path.name for path in folder.iterdir() if not path.name.startswith(".")]
    if not file.exists():  # looked for after the listing: another rank may be writing it
        if names:
            raise ValueError(f"--out {folder} holds files but no settings.json: give a new folder")
        return
    found = json.loads(file.read_text(encoding="utf-8"))
    for name, value in json.loads(json.dumps(settings)).items():
        if found.get(name) != value:
            raise ValueError(f"--out {folder} was begun with {name} {found.get(name)}, not {value}: give a new folder")


def parse_arguments(arguments: list[str] | None = None) -> argparse.Namespace:
    """Read and check the command line; exits with code 2 when it is wrong."""
    parser = argparse.ArgumentParser(
        prog="encode.py", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--config", required=True, help="that of the training: a YAML file, or one's name in configs/")
    parser.add_argument("--out", type=Path, required=True, metavar="FOLDER", help="a new one, or one that was begun")
    parser.add_argument("--shard-size", type=at_least(1), default=256, help="clips in a shard (default: %(default)s)")
    parser.add_argument("--wordings", type=at_least(1), default=8, help="captions of a clip (default: %(default)s)")
    parser.add_argument("--local_rank", help=argparse.SUPPRESS)
    parser.add_argument("overrides", nargs="*", metavar="section.key=value")
    return parser.parse_intermixed_args(arguments)


def main() -> int:
    """Exit code 0 when this rank's share is written, 2 for the user's mistakes, 1 for what failed, 130 for Ctrl-C."""
    args = parse_arguments()
    from data.packing import lost_worker

    try:
        encode(args)
    except (ValueError, OSError) as error:
        print(f"encode.py: {' '.join(str(error).split())}", file=sys.stderr)
        return 2 if isinstance(error, ValueError) else 1
    except RuntimeError as error:
        if not (line := lost_worker(error)):
            raise
        print(f"encode.py: {line}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("encode.py: stopped", file=sys.stderr)
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())
