"""Settings that several test files train with: a model that takes a second a step."""

CLIPS = [
    "data.num_frames=41",
    "data.window_frames=33",
    "data.sizes=[[64,64],[64,64],[48,80],[80,48]]",
    "data.frame_rates=[8.0]",
    "data.num_clips=12",
    "data.token_budget=400",
]
"""Smaller ones than those of configs/sora_tiny.yaml, and few."""

TINY = [
    "model.hidden_size=32",
    "model.num_layers=2",
    "model.num_heads=2",
    "text.encoder=''",
    "text.width=32",
    "text.num_layers=1",
    "text.num_heads=2",
    "text.hidden=32",
    *CLIPS,
    "data.workers=0",
    "data.validation_packs=1",
    "data.sample_prompts=[]",
    "train.optimizer=adamw",  # whose steps are nearly the same whatever the ranks; Muon's are not, in 16 bits
]
