"""Make a student of a model that samples in few steps without guidance: ``deepspeed tools/distill.py --config
sora_tiny.yaml train.init_from=checkpoints/sora-tiny run_dir=runs/student [section.key=value …]``.

It is train.py with settings of its own, which the command line overrides and the config does not, and with the model
itself, guided, as the teacher: see docs/training.md. Writes ``few_steps/`` into ``run_dir``; copied into the model's
folder, it is what tools/generate.py takes for --steps 4 to 8.
"""

import sys

from train import main

DEFAULTS = (
    "distill.steps=[4,8]",
    "context.per_frame=0",  # which no one samples
    "context.null_context=0",
    "data.sample_prompts=[]",
    "train.lora.rank=12",
    "train.optimizer=adamw",
    "train.lr=3e-3",
    "train.weight_decay=0",
    "train.max_steps=200",
    "train.save_every=50",
    "train.warmup_steps=10",
    "train.decay_steps=40",
    "train.ema_decay=0.95",
)

if __name__ == "__main__":
    sys.exit(main(__doc__, DEFAULTS))
