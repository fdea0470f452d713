"""Train a text-to-video model: ``deepspeed train.py --config sora_small.yaml [section.key=value …]``.

Writes into ``run_dir``: ``model/`` (a diffusers folder with the averaged weights, for tools/generate.py), or the
adapter alone, ``lora/`` where ``train.lora.rank`` is set and ``few_steps/`` by tools/distill.py; ``checkpoints/`` (the
same command resumes from them, on any number of ranks), ``tensorboard/``, ``metrics.jsonl``, ``loss.png``, ``samples/``
and ``config.yaml`` (all settings). SIGTERM has it end the step, save and return. With ``--dry-run`` it writes nothing,
but tells what the run would be trained on, compute and hold.
"""

import os
import sys
import time
from collections.abc import Sequence
from contextlib import nullcontext, suppress
from itertools import islice, repeat
from pathlib import Path
from typing import NoReturn

import diffusers
import torch
import transformers
from deepspeed import comm as dist
from safetensors import SafetensorError

from data.packing import cost, imbalance, load_ahead, rank_positions
from data.sheet import checked_folder
from vae3d import LatentCodec
from video_dit.attention import use_flash_attention_3
from video_dit.batch import Pack
from video_dit.checkpoint import checkpoint_folder, is_newer, replace_folder, resume, save_checkpoint
from video_dit.config import RunConfig, command_line, load_config, save_config
from video_dit.continuation import write_continuation
from video_dit.denoiser import Denoiser, averaged_pipeline, build_denoiser, checkpoint_facts
from video_dit.ema import EMA
from video_dit.engine import check_stage, global_sum, initialize, process_group, set_learning_rate
from video_dit.failures import failure_line, gradient_line, is_out_of_memory, memory_advice, not_finite_line
from video_dit.few_steps import FOLDER, steps_fact
from video_dit.flops import PackFlops, peak_tflops
from video_dit.footprint import footprint_lines
from video_dit.layers import fast_dtype
from video_dit.lora import save_lora
from video_dit.pack_factory import BuiltPack, PackFactory
from video_dit.preflight import data_report
from video_dit.progress import Progress
from video_dit.sampling import SamplingConfig
from video_dit.sequence_parallel import of_first, packs_at_once, sequence_group, split_pack
from video_dit.sources import check_text
from video_dit.stopping import Stop, StoppedError, stop_on_sigterm
from video_dit.tally import LevelLosses, StepTally, peak_memory
from video_dit.teaching import write_explanation
from video_dit.validation import failures_told, validation_loss, write_samples

LEVELS_EVERY = 50  # steps that a loss by noise level is the mean of


def train(config: RunConfig, stop: Stop) -> None:
    """The whole run: build, resume, step, log, validate, save. When ``stop`` is asked on any rank, all end the step,
    save and return."""
    rank, world = dist.get_rank(), dist.get_world_size()
    run_dir, settings = Path(config.run_dir), config.train
    checked_folder(f"run_dir={run_dir}", run_dir)
    student = config.distill.steps  # the fewest and the most, or none
    result = run_dir / (FOLDER if student else "lora" if settings.lora.rank else "model")

    codec = LatentCodec.from_pretrained(config.vae.path, dtype=torch.bfloat16)
    module = build_denoiser(config, codec)
    data_rank, data_ranks = rank // settings.sequence_parallel, packs_at_once(settings.sequence_parallel, world)
    group = sequence_group(settings.sequence_parallel)
    packs_per_step = data_ranks * settings.accumulation
    train_packs = PackFactory(config, codec, "train", module.tokenizer, packs_per_step=packs_per_step)
    validation_packs = PackFactory(config, codec, "val", module.tokenizer)
    check_text(train_packs.source, module.tokenizer, module.text_encoder)
    if settings.checkpointing:
        module.transformer.enable_gradient_checkpointing()
    flops = PackFlops(module.transformer, module.text_encoder)
    if settings.compile and torch.cuda.is_available() and settings.zero_stage < 3:
        module.transformer.compile_repeated_blocks(dynamic=True)
    facts = checkpoint_facts(module, config, codec)
    engine = initialize(module, settings)
    codec.vae.to(engine.device, fast_dtype(engine.device))
    ema = EMA(engine, settings.ema_decay)
    start = resume(engine, ema, run_dir, facts)
    if rank == 0:
        save_config(config, run_dir / "config.yaml")

    positions = rank_positions(start, settings.max_steps, settings.accumulation, data_rank, data_ranks)
    reads = rank % settings.sequence_parallel == 0  # and gives its neighbours what it read
    workers, program = config.data.workers, ("video_dit.validation",)
    loader = load_ahead(train_packs.packs, positions, workers, program) if reads else repeat(None, len(positions))
    items = zip(positions, loader, strict=True)
    on_gpu = engine.device.type == "cuda"

    def read_step() -> tuple[list[BuiltPack], list[Pack]]:
        """The packs of the next step, whole and this rank's part of each; none after the last step."""
        read = islice(items, settings.accumulation)
        built = [of_first(train_packs.build(item, at) if reads else None, group) for at, item in read]
        packs = [split_pack(one.pack, group) for one in built]
        return built, [pack.pin_memory() for pack in packs] if on_gpu else packs

    progress = Progress(run_dir, start, settings.max_steps, show=rank == 0, wandb=settings.wandb)
    peak = peak_tflops(engine.device, settings.peak_tflops)
    level_losses = LevelLosses()

    def publish(done: int, folder: Path) -> None:
        """Write and measure the averaged weights of a checkpoint; all ranks take part, or all leave it off."""
        pipe = averaged_pipeline(module, folder, codec, config.noise, engine.device)
        with replace_folder(result) if rank == 0 else nullcontext() as draft:
            if draft is not None:
                if settings.lora.rank:
                    save_lora(pipe.transformer, draft, settings.init_from, steps_fact(*student) if student else {})
                else:
                    pipe.to(torch.bfloat16).save_pretrained(draft)
                save_config(config, draft / "config.yaml")
            pipe.to(fast_dtype(engine.device))
            denoiser = Denoiser(pipe.transformer, pipe.tokenizer, pipe.text_encoder)
            score = validation_loss(denoiser, validation_packs, rank, world, engine.device, stop)
            progress.record(done, {"validation/loss": score})
            progress.say(f"step {done}: validation loss {score:.4f}")
            progress.plot("train/loss", "validation/loss")
            samples = run_dir / "samples"
            sampling = SamplingConfig(student[0], guidance_scale=1.0) if student else SamplingConfig()
            write_samples(pipe, config.data.sample_prompts, samples, done, rank, world, stop, sampling)
            if rank == world - 1 and config.data.sample_prompts:
                with suppress(StoppedError), failures_told("the continued clip"):
                    write_continuation(pipe, validation_packs.source, samples, done, stop, sampling)
            if rank == 0 and config.noise.pictures:
                with suppress(StoppedError), failures_told("the pictures of the way to noise"):
                    prompts = config.data.sample_prompts
                    write_explanation(pipe, validation_packs.source, prompts, config.noise, run_dir, done, stop)
            if global_sum(stop.asked, engine.device):
                raise StoppedError
            progress.pictures(done, sorted(samples.glob(f"step-{done:07d}-*.png")))

    def is_due(done: int) -> bool:
        return done == settings.max_steps or done % settings.save_every == 0

    last = checkpoint_folder(run_dir, start)
    lacks = rank == 0 and start > 0 and is_due(start) and not is_newer(result, last)  # it was stopped in between
    if global_sum(lacks, engine.device):
        with suppress(StoppedError):
            publish(start, last)
    ahead: tuple[list[BuiltPack], list[Pack]] | None = None
    for step in range(start, settings.max_steps):
        began = time.perf_counter()
        set_learning_rate(engine, settings, step)
        built, packs = ahead or read_step()
        known = {
            "tokens": sum(view.tokens for one in built for view in one.views),
            "left_out": sum(one.left_out for one in built),
            "flops": sum(flops(one.pack) for one in built),
        }
        shares = {name: value / settings.sequence_parallel for name, value in known.items()}  # of a pack that is shared
        shares["rows"] = sum(len(pack.made) for pack in packs)  # with those that fill up a shared pack
        held = {
            "cost": sum(cost(one.views, train_packs.plan.attention_cost) for one in built),
            "memory": peak_memory(engine.device),
        }
        tally = StepTally(packs, shares, held, engine.device)
        for number, pack in enumerate(packs, start=1):
            placed = pack.to(engine.device)
            errors = engine(placed)  # n
            tally.add(placed, errors)
            engine.backward(errors.sum() * tally.scale)
            if number == len(packs):
                ahead = read_step() if on_gpu else None  # while it computes
                totals = tally.totals()
                if totals.not_finite:
                    clips = sorted({clip for bad in totals.packs_not_finite for clip in packs[bad].clips})
                    end(not_finite_line(step, rank, clips) if rank == totals.not_finite[0] else None)
            engine.step()
        if not engine.was_step_applied():  # on all ranks alike; to go on would leave Adam's count of steps behind
            end(gradient_line(step) if rank == 0 else None)
        ema.update(engine, step)

        done = step + 1
        seconds = time.perf_counter() - began
        tflops = totals.sums["flops"] / seconds / world / 1e12
        figures = {
            "loss": totals.loss,
            "tokens/s": totals.sums["tokens"] / seconds,
            **({"MFU": tflops / peak} if peak else {"TFLOP/s": tflops}),
            "fill": totals.sums["tokens"] / (config.data.token_budget * packs_per_step),
            "GiB": max(totals.apart["memory"]),
        }
        aside = {
            "padding": totals.sums["rows"] - totals.sums["tokens"],
            "imbalance": imbalance(totals.apart["cost"]),
            "left_out": totals.sums["left_out"],
        }
        progress.step(done, figures, aside)
        level_losses.add(totals)
        if done % LEVELS_EVERY == 0 or done == settings.max_steps:
            progress.record(done, {f"loss_by_level/{name}": loss for name, loss in level_losses.take().items()})
        stopping = global_sum(stop.asked, engine.device)  # asked now, so that a wish within the step ends this one
        if stopping or is_due(done):
            folder = save_checkpoint(engine, ema, run_dir, done, facts)
            progress.flush()
            if stopping:
                progress.say(f"step {done}: saved, and stopped as SIGTERM asked")
                break
            try:
                publish(done, folder)
            except StoppedError:
                break
    progress.close()


def end(line: str | None) -> NoReturn:
    """End the run on all ranks, with exit code 1; the one that has a ``line`` says it, before any of them ends, since
    the launcher then ends the others."""
    if line is not None:
        print(f"\ntrain.py: {line}", file=sys.stderr, flush=True)  # on a line of its own, below the bar
    dist.barrier()
    raise SystemExit(1)


def dry_run(config: RunConfig) -> list[str]:
    """What `train` would be trained on, compute and hold, in lines; nothing is written, and no clip is read."""
    ranks = int(os.environ.get("WORLD_SIZE", 1))
    check_stage(config.train, ranks)
    data_ranks = packs_at_once(config.train.sequence_parallel, ranks)
    packs_per_step = data_ranks * config.train.accumulation
    codec = LatentCodec.from_pretrained(config.vae.path, dtype=torch.bfloat16)
    loads = config.train.init_from or config.text.encoder
    with nullcontext() if loads else torch.device("meta"):  # new weights are only counted: those of 3 B take 12 GiB
        module = build_denoiser(config, codec)
    factory = PackFactory(config, codec, "train", module.tokenizer, packs_per_step=packs_per_step)
    PackFactory(config, codec, "val", module.tokenizer)  # whether it can be made
    check_text(factory.source, module.tokenizer, module.text_encoder)
    return [
        *data_report(config, factory.source, factory.plan, data_ranks, config.train.sequence_parallel),
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


def main(description: str = __doc__, defaults: Sequence[str] = ()) -> int:
    """Exit code 2 for what the user got wrong, 1 for what failed. ``defaults`` are overrides of the config that those
    of the command line override."""
    parser = command_line(" ".join(description.split("\n\n")[0].split()))
    parser.add_argument(
        "--dry-run", action="store_true", help="tell clips, packs, FLOPs and memory of the run, and stop"
    )
    args = parser.parse_intermixed_args()
    use_flash_attention_3()
    for library in (diffusers.utils.logging, transformers.utils.logging):  # their bars would cut the run's in two
        library.set_verbosity_error()
        library.disable_progress_bar()
    try:
        config = load_config(RunConfig, args.config, [*defaults, *args.overrides])
        if args.dry_run:
            if int(os.environ.get("RANK", 0)) == 0:
                print("\n".join(dry_run(config)))
            return 0
        with process_group(), stop_on_sigterm() as stop:
            train(config, stop)
    except ValueError as error:
        print(f"{parser.prog}: {error}", file=sys.stderr)
        return 2
    except (RuntimeError, MemoryError, OSError, SafetensorError) as error:
        line = failure_line(error)
        if is_out_of_memory(error):
            line = memory_advice(error, config.data.token_budget, config.train)
        if not line:
            raise
        print(f"\n{parser.prog}: {line}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
