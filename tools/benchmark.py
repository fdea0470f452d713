r"""Measure ours against others in one run: autoencoders by FLOPs, time, memory, and what equal training time makes of
each; data by how long reading takes, and how full batches are; transformers by forward pass and training step.

python tools/benchmark.py vae
python tools/benchmark.py vae --against wan cogvideox --train-seconds 600 --manifest clips.csv --seeds 3
python tools/benchmark.py vae --against --train-seconds 120 --optimizer muon --config vae_tiny.yaml \
    "vae_tiny.yaml model.decoder_width=384"
python tools/benchmark.py data --manifest clips.csv
python tools/benchmark.py dit --compile
python tools/benchmark.py dit --epoch
python tools/benchmark.py dit --mixed --device cuda --config sora_small.yaml "sora_base.yaml data.token_budget=65536"
"""

import argparse
import json
import sys
from dataclasses import asdict
from pathlib import Path

from data.options import at_least, positive, size


def run_vae(args: argparse.Namespace) -> dict:
    """Our autoencoder beside those of diffusers, as published and with as many parameters as ours."""
    import torch  # takes seconds to import
    from tqdm import tqdm

    from video_dit.evaluation.benchmark import VAEBenchmark, benchmark_vae
    from video_dit.evaluation.equal_training import TrainOptions
    from video_dit.evaluation.speed import SpeedOptions

    height, width = args.size
    speed = SpeedOptions(
        num_frames=args.frames,
        height=height,
        width=width,
        dtype={"float32": torch.float32, "bfloat16": torch.bfloat16}[args.dtype],
        threads=args.threads,
        repeats=args.repeats,
        device=args.device,
    )
    train = TrainOptions(
        seconds=args.train_seconds,
        frames=args.train_frames,
        size=args.train_size,
        batch=args.train_batch,
        rates=tuple(args.lr),
        seeds=args.seeds,
        manifest=args.manifest,
        threads=args.threads,
        device=args.device,
        world_clips=args.train_clips,
        test_clips=args.test_clips,
        optimizer=args.optimizer,
    )
    options = VAEBenchmark(
        configs=args.config,
        against=args.against,
        kinds=args.rivals,
        speed=speed,
        memory_seconds=args.memory_seconds,
        train=train if args.train_seconds else None,
    )
    return benchmark_vae(options, tqdm.write)


def run_data(args: argparse.Namespace) -> dict:
    """Reading beside decord, and our packs beside padding and buckets. Rows of the split ``odd`` are left out."""
    from tqdm import tqdm  # takes seconds to import with what follows

    from data.manifest import read_manifest
    from video_dit.evaluation.data_speed import measure_reading
    from video_dit.evaluation.fill import FillOptions, measure_fill

    records = [record for record in read_manifest(args.manifest) if record.split != "odd"]
    options = FillOptions(args.clips, args.token_budget, args.ranks, args.seed)
    reading = measure_reading(records, args.manifest.parent, args.reads, args.seed, tqdm.write)
    tqdm.write("")
    filling = measure_fill(records, options, tqdm.write)
    wanted = [reading.requirement(), *filling.requirements()]
    tqdm.write("")
    for requirement in wanted:
        tqdm.write(requirement.line())
    settings = {"manifest": str(args.manifest), "reads": args.reads, **asdict(options)}
    return {
        "settings": settings,
        "reading": reading.as_json(),
        "fill": filling.as_json(),
        "requirements": [asdict(requirement) for requirement in wanted],
    }


def run_dit(args: argparse.Namespace) -> dict:
    """Our transformer beside those of diffusers; or training steps of configs."""
    import torch  # takes seconds to import
    from tqdm import tqdm

    from data.manifest import read_manifest
    from video_dit.evaluation.dit_benchmark import DiTBenchmark, benchmark_dit, benchmark_epoch, benchmark_mixed
    from video_dit.evaluation.dit_candidates import Size, Work
    from video_dit.evaluation.dit_epoch import EpochOptions
    from video_dit.evaluation.dit_mixed import MixedOptions
    from video_dit.evaluation.dit_speed import DiTSpeedOptions

    peak = args.peak_tflops * 1e12
    if args.mixed:
        mixed = MixedOptions(args.device, args.threads, args.warm_up, args.steps)
        return benchmark_mixed(args.config, mixed, peak, tqdm.write)
    size = Size(args.layers, args.width, args.heads)
    work = Work(args.batch, args.grid, args.text_length, args.text_width or args.width)
    dtypes = [{"float32": torch.float32, "bfloat16": torch.bfloat16}[name] for name in args.dtype]
    speed = DiTSpeedOptions(args.device, args.threads, args.repeats, args.matmul_precision, args.autocast)
    if args.epoch:
        records = read_manifest(args.manifest) if args.manifest else None
        budget = args.token_budget or (16384 if args.device == "cuda" else 2048)
        runs = [EpochOptions(size, work, dtype, budget, args.steps, args.seed, args.compile) for dtype in dtypes]
        return benchmark_epoch(records, args.clips, runs, speed, tqdm.write)
    compiled = [False, True] if args.compile else [False]
    return benchmark_dit(DiTBenchmark(args.against, size, work, dtypes, compiled, speed, peak), tqdm.write)


def grid(text: str) -> tuple[int, int, int]:
    """Frames, rows and columns of tokens, as in 10x8x8."""
    parts = text.split("x")
    if len(parts) != 3 or not all(part.isdecimal() and int(part) > 0 for part in parts):
        raise argparse.ArgumentTypeError(f"{text!r} must be like 10x8x8, frames x rows x columns")
    frames, rows, columns = map(int, parts)
    return frames, rows, columns


def parse_arguments(arguments: list[str] | None = None) -> argparse.Namespace:
    """Read and check the command line; exits with code 2 when it is wrong."""
    parser = argparse.ArgumentParser(
        prog="benchmark.py", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    commands = parser.add_subparsers(dest="command", required=True)
    vae = commands.add_parser("vae", help="autoencoders")
    add = vae.add_argument
    rivals, kinds = ("wan", "cogvideox", "ltx", "hunyuan"), ("published", "shrunk")
    lengths, default = [5.0, 60.0], "(default: %(default)s)"
    add(
        "--config",
        nargs="+",
        default=["vae_base.yaml"],
        help=f'of tools/train_vae.py; "FILE model.key=value" for a change of it {default}',
    )
    add("--against", nargs="*", choices=rivals, default=["wan", "cogvideox"], help=default)
    add("--rivals", nargs="+", choices=kinds, default=list(kinds), help=f"shrunk: to our parameters {default}")
    add("--frames", type=at_least(1), default=17, help=f"of the clip, 1 + 4k {default}")
    add("--size", type=size, default=(256, 256), metavar="WxH", help="pixels (default: 256x256)")
    add("--dtype", choices=("float32", "bfloat16"), default="float32", help=default)
    add("--threads", type=at_least(1), default=2, help=f"of the CPU {default}")
    add("--device", choices=("cpu", "cuda"), default="cpu", help=default)
    add("--repeats", type=at_least(1), default=5, help=f"after a warm-up; what takes 20 s runs once {default}")
    add("--memory-seconds", type=positive, nargs="*", default=lengths, help=f"streams of ours, at 24 fps {default}")
    add(
        "--train-seconds",
        type=positive,
        help="of processor time, each; clips are kept in cache/frames (default: no training)",
    )
    add("--train-frames", type=at_least(1), default=17, help=f"of a crop, 1 + 4k {default}")
    add("--train-size", type=at_least(1), default=64, help=f"of square crops; tests have twice that {default}")
    add("--train-batch", type=at_least(1), default=2, help=f"crops in a step {default}")
    add("--train-clips", type=at_least(1), default=200, help=f"renders of the world to train on {default}")
    add("--test-clips", type=at_least(1), default=16, help=f"unseen renders; as many real clips at most {default}")
    add("--lr", type=positive, nargs="+", default=[3e-4, 1e-3, 3e-3], help=f"the best of these is taken {default}")
    add("--optimizer", choices=("adamw", "muon"), default="adamw", help=f"muon at ten times the rate {default}")
    add("--seeds", type=at_least(1), default=1, help=f"trainings with the best rate {default}")
    add("--manifest", type=Path, metavar="FILE", help="real clips as well: split train to train on, test to test")
    data = commands.add_parser("data", help="reading and packing clips")
    add = data.add_argument
    add("--manifest", type=Path, required=True, metavar="FILE", help="of clips; rows of split odd are left out")
    add("--reads", type=at_least(1), default=3, help=f"of 17 frames, of each clip {default}")
    add("--clips", type=at_least(1), default=1000, help=f"drawn from the manifest, to fill batches with {default}")
    add("--token-budget", type=at_least(1), default=16384, help=f"of a batch {default}")
    add("--ranks", type=at_least(1), default=8, help=f"that wait for each other in each step {default}")
    add("--seed", type=at_least(0), default=0, help=default)
    dit = commands.add_parser("dit", help="transformers")
    add = dit.add_argument
    peers = ("wan", "cogvideox", "ltx")
    add("--against", nargs="*", choices=peers, default=list(peers), help=default)
    add("--layers", type=at_least(1), default=12, help=f"of all {default}")
    add("--width", type=at_least(1), default=384, help=f"of all {default}")
    add("--heads", type=at_least(1), default=6, help=f"of all {default}")
    add("--grid", type=grid, default=(10, 8, 8), metavar="TxHxW", help="tokens of a clip (default: 10x8x8)")
    add("--batch", type=at_least(1), default=1, help=f"clips {default}")
    add("--text-length", type=at_least(1), default=64, help=f"tokens of each text {default}")
    add("--text-width", type=at_least(1), help="channels of the texts (default: that of --width)")
    add("--dtype", nargs="+", choices=("float32", "bfloat16"), default=["float32", "bfloat16"], help=default)
    add("--autocast", action="store_true", help="train in bf16 with fp32 weights under autocast, not bf16 weights")
    add("--compile", action="store_true", help="with torch.compile as well")
    add("--matmul-precision", choices=("highest", "high", "medium"), default="highest", help=f"in fp32 {default}")
    add("--threads", type=at_least(1), default=2, help=f"of the CPU {default}")
    add("--device", choices=("cpu", "cuda"), default="cpu", help=default)
    add("--repeats", type=at_least(1), default=11, help=f"rounds after the warm-up {default}")
    add("--peak-tflops", type=positive, default=790.0, help=f"of the GPU in bf16 {default}")
    add(
        "--epoch",
        action="store_true",
        help="instead: ours on packs, padded batches and buckets of clips of many shapes",
    )
    add("--clips", type=at_least(1), default=400, help=f"with --epoch {default}")
    add("--manifest", type=Path, metavar="FILE", help="whose clips' shapes --epoch draws from (default: a made-up mix)")
    add("--token-budget", type=at_least(1), help="with --epoch (default: 16384 on a GPU, 2048 on a CPU)")
    add("--seed", type=at_least(0), default=0, help=f"of --epoch {default}")
    add("--mixed", action="store_true", help="instead: training steps of --config on packs of mixed shapes")
    add(
        "--config",
        nargs="+",
        action="extend",
        metavar="FILE",
        help='of train.py; "FILE section.key=value" for a change of it',
    )
    add(
        "--steps",
        type=at_least(1),
        default=20,
        help=f"timed, with --mixed; batches of each way, with --epoch {default}",
    )
    add("--warm-up", type=at_least(1), default=5, help=f"steps before these {default}")
    for command in (vae, data, dit):
        command.add_argument("--json", type=Path, metavar="FILE", help="write the figures there as well")
    args = parser.parse_args(arguments)
    if args.json and (args.json.is_dir() or not args.json.parent.is_dir()):
        parser.error(f"--json {args.json}: must be a file in a folder that exists")
    if args.command == "vae" and args.manifest and not args.train_seconds:
        parser.error(f"--manifest {args.manifest}: is for training: give --train-seconds as well")
    if args.command == "dit" and args.mixed != bool(args.config):
        parser.error("--mixed and --config FILE: give both or neither")
    if args.command == "dit" and args.mixed and args.epoch:
        parser.error("--mixed and --epoch: give one of them")
    return args


def main() -> int:
    """Exit code 2 for what the user got wrong, 1 for what failed."""
    args = parse_arguments()
    try:
        results = {"vae": run_vae, "data": run_data, "dit": run_dit}[args.command](args)
        if args.json:
            args.json.write_text(json.dumps(results, indent=1) + "\n")
    except (ValueError, OSError, RuntimeError) as error:
        print(f"benchmark.py: {' '.join(str(error).split())}", file=sys.stderr)
        return 2 if isinstance(error, ValueError) else 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
