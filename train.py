"""Train a text-to-video model: ``deepspeed train.py --config sora_small.yaml [section.key=value …]``.

Writes into ``run_dir``: ``model/`` (a diffusers folder with the averaged weights, for tools/generate.py),
``checkpoints/`` (the same command resumes from them), ``tensorboard/``, ``loss.png`` and ``samples/``. With
``--dry-run`` it writes nothing, but tells what the run would be trained on, compute and hold.
"""

import os
import sys
import time
from itertools import islice
from pathlib import Path

import torch
from deepspeed import comm as dist

from data.packing import cost, imbalance, load_ahead, rank_positions
from vae3d import LatentCodec
from video_dit.config import RunConfig, command_line, load_config, save_config
from video_dit.denoiser import Denoiser, averaged_pipeline, build_denoiser
from video_dit.ema import EMA
from video_dit.engine import (
    checkpoint_folder,
    initialize,
    is_newer,
    process_group,
    replace_folder,
    resume,
    save_checkpoint,
    set_learning_rate,
)
from video_dit.footprint import footprint_lines
from video_dit.layers import fast_dtype
from video_dit.pack_factory import PackFactory
from video_dit.preflight import data_report
from video_dit.progress import Progress
from video_dit.sources import check_text
from video_dit.teaching import write_explanation
from video_dit.validation import global_sum, global_sums, validation_loss, write_samples


def train(config: RunConfig) -> None:
    """The whole run: build, resume, step, log, validate, save."""
    rank, world = dist.get_rank(), dist.get_world_size()
    run_dir, settings = Path(config.run_dir), config.train

    codec = LatentCodec.from_pretrained(config.vae.path, dtype=torch.bfloat16)
    train_packs = PackFactory(config, codec, "train", packs_per_step=world * settings.accumulation)
    validation_packs = PackFactory(config, codec, "val")
    module = build_denoiser(config, codec)
    check_text(train_packs.source, module.tokenizer, module.text_encoder)
    engine = initialize(module, settings)
    codec.vae.to(engine.device, fast_dtype(engine.device))
    ema = EMA(engine, settings.ema_decay)
    start = resume(engine, ema, run_dir)
    if rank == 0:
        save_config(config, run_dir / "config.yaml")

    positions = rank_positions(start, settings.max_steps, settings.accumulation, rank, world)
    loader = load_ahead(train_packs.packs, positions, config.data.workers)
    items = zip(positions, loader, strict=True)
    progress = Progress(run_dir, start, settings.max_steps, show=rank == 0)

    def publish(done: int, folder: Path) -> None:
        """Write and measure the averaged weights of a checkpoint; all ranks take part."""
        pipe = averaged_pipeline(module, folder, codec, config.noise, engine.device)
        if rank == 0:
            with replace_folder(run_dir / "model") as draft:
                pipe.to(torch.bfloat16).save_pretrained(draft)
                save_config(config, draft / "config.yaml")
        pipe.to(fast_dtype(engine.device))
        denoiser = Denoiser(pipe.transformer, pipe.tokenizer, pipe.text_encoder)
        score = validation_loss(denoiser, validation_packs, rank, world, engine.device)
        progress.record(done, {"validation/loss": score})
        progress.say(f"step {done}: validation loss {score:.4f}")
        progress.plot("train/loss", "validation/loss")
        if rank == 0:
            prompts = list(config.data.sample_prompts)
            write_samples(pipe, prompts, run_dir / "samples", done)
            if config.noise.pictures:
                write_explanation(pipe, validation_packs.source, prompts, config.noise, run_dir, done)
        dist.barrier()

    last = checkpoint_folder(run_dir, start)
    if start >= settings.max_steps and not is_newer(run_dir / "model", last):  # it was stopped in between
        publish(start, last)
    for step in range(start, settings.max_steps):
        began = time.perf_counter()
        set_learning_rate(engine, settings, step)
        batches = list(islice(items, settings.accumulation))
        packs = [train_packs.build(loaded, position) for position, loaded in batches]
        taken = [[item.view for item in loaded.items] for _, loaded in batches]
        count = global_sum(sum(pack.loss_elements for pack in packs), engine.device)
        error = 0.0
        for pack in packs:
            squared_error = engine(pack.to(engine.device))
            if not torch.isfinite(squared_error):
                raise FloatingPointError(f"the loss is not finite at step {step} on rank {rank}, clips {pack.clips}")
            # DeepSpeed averages over ranks and accumulation: undo it, the count is global
            engine.backward(squared_error * (world * settings.accumulation / count))
            engine.step()
            error += float(squared_error.detach())
        loss = global_sum(error, engine.device) / count
        ema.update(engine, step)

        done = step + 1
        costs = [0.0] * world
        costs[rank] = sum(cost(views, train_packs.plan.attention_cost) for views in taken)
        of_packs, of_views, left_out, *costs = global_sums(
            [
                sum(len(pack.made) for pack in packs),
                sum(view.tokens for views in taken for view in views),
                sum(loaded.left_out for _, loaded in batches),
                *costs,
            ],
            engine.device,
        )
        figures = {
            "loss": loss,
            "tokens/s": of_packs / (time.perf_counter() - began),
            "fill": of_packs / (config.data.token_budget * settings.accumulation * world),
            "padding": of_packs - of_views,
            "imbalance": imbalance(costs),
            "left_out": left_out,
        }
        progress.step(done, figures)
        if done == settings.max_steps or done % settings.save_every == 0:
            publish(done, save_checkpoint(engine, ema, run_dir, done))
    progress.close()


def dry_run(config: RunConfig) -> list[str]:
    """What `train` would be trained on, compute and hold, in lines; nothing is written, and no clip is read."""
    ranks = int(os.environ.get("WORLD_SIZE", 1))
    codec = LatentCodec.from_pretrained(config.vae.path, dtype=torch.bfloat16)
    factory = PackFactory(config, codec, "train", packs_per_step=ranks * config.train.accumulation)
    PackFactory(config, codec, "val")  # whether it can be made
    module = build_denoiser(config, codec)
    check_text(factory.source, module.tokenizer, module.text_encoder)
    return [
        *data_report(config, factory.source, factory.plan, ranks),
        *footprint_lines(
            config.train,
            module.transformer,
            module.tokenizer,
            module.text_encoder,
            factory.source,
            factory.plan,
            ranks,
        ),
    ]


def main() -> int:
    """Exit code 2 for what the user got wrong."""
    parser = command_line(__doc__.splitlines()[0])
    parser.add_argument(
        "--dry-run", action="store_true", help="tell clips, packs, FLOPs and memory of the run, and stop"
    )
    args = parser.parse_intermixed_args()
    try:
        config = load_config(RunConfig, args.config, args.overrides)
        if args.dry_run:
            if int(os.environ.get("RANK", 0)) == 0:
                print("\n".join(dry_run(config)))
            return 0
        with process_group():
            train(config)
    except ValueError as error:
        print(f"train.py: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
