"""Random models of the kinds that Wan publishes, which are run in milliseconds."""

from typing import Any

import torch
from diffusers import AutoencoderKLWan, UniPCMultistepScheduler, WanPipeline, WanTransformer3DModel
from transformers import ByT5Tokenizer, UMT5Config, UMT5EncoderModel

SIZES: dict[str, Any] = {
    "num_attention_heads": 2,
    "attention_head_dim": 12,
    "text_dim": 16,
    "freq_dim": 16,
    "ffn_dim": 32,
    "num_layers": 2,
    "rope_max_seq_len": 32,
}
VAE: dict[str, Any] = {
    "z_dim": 4,
    "dim_mult": [1] * 4,
    "num_res_blocks": 1,
    "latents_mean": [0.1, -0.5, 0.3, 0.0],
    "latents_std": [0.5, 1.5, 0.25, 2.0],
}
PATCHES: dict[str, Any] = {"in_channels": 12, "out_channels": 12, "patch_size": 2, "scale_factor_spatial": 16}


def transformer(seed: int, in_channels: int = 4) -> WanTransformer3DModel:
    """All parameters random and larger than in a new one, so that it makes something of all that it is told."""
    model = WanTransformer3DModel(in_channels=in_channels, out_channels=4, **SIZES)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(0.3 * torch.randn(parameter.shape, generator=generator))
    return model.eval()


def wan(two: bool = False, told: bool = False) -> WanPipeline:
    """diffusers' pipeline: of Wan 2.1; of 2.2 with ``two`` transformers; of 2.2 that is ``told`` a level a token."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        vae = AutoencoderKLWan(4, **VAE, **PATCHES, is_residual=True) if told else AutoencoderKLWan(4, **VAE)
        encoder = UMT5EncoderModel(
            UMT5Config(
                vocab_size=384,
                d_model=16,
                d_kv=8,
                d_ff=32,
                num_layers=1,
                num_heads=2,
                dropout_rate=0.0,
                tie_word_embeddings=False,  # as in published ones
            )
        )
    pipe = WanPipeline(
        ByT5Tokenizer(extra_ids=0),
        encoder.eval(),
        vae.eval(),
        UniPCMultistepScheduler(prediction_type="flow_prediction", use_flow_sigmas=True, flow_shift=3.0),
        transformer(1),
        transformer_2=transformer(2) if two else None,
        boundary_ratio=0.875 if two else None,
        expand_timesteps=told,
    )
    pipe.set_progress_bar_config(disable=True)
    return pipe
