"""Text encoder and transformer as the one module that is trained, and the pipeline that its average makes."""

from dataclasses import asdict
from pathlib import Path

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from vae3d import LatentCodec
from video_dit.batch import Pack
from video_dit.checkpoint import averaged_weights
from video_dit.config import RunConfig, check_start
from video_dit.distillation import taught
from video_dit.loading import load_model
from video_dit.lora import add_lora, copy_adapter, fingerprint
from video_dit.model import VideoDiT
from video_dit.noise import NoiseConfig
from video_dit.pipeline import VideoPipeline
from video_dit.schedulers import model_scheduler, noise_facts
from video_dit.text import encode_prompts, encode_tokens, load_text_encoder


class Denoiser(nn.Module):
    """Text encoder and transformer as one module for DeepSpeed."""

    def __init__(
        self, transformer: VideoDiT, tokenizer: PreTrainedTokenizerBase, text_encoder: PreTrainedModel
    ) -> None:
        super().__init__()
        self.transformer, self.tokenizer, self.text_encoder = transformer, tokenizer, text_encoder

    def forward(self, pack: Pack) -> Tensor:
        """Weighted squared error of the prediction of each token ``(n,)``, fp32, summed over its elements; 0 where no
        loss is taken."""
        embeds = encode_tokens(self.text_encoder, pack.prompts)
        if pack.lesson is not None:
            pack = taught(self.transformer, pack, embeds, encode_prompts(self.tokenizer, self.text_encoder, [""])[0])
        prediction = self.transformer(
            pack.hidden_states,
            pack.levels,
            pack.level_index,
            pack.coords,
            pack.one_frame,
            pack.segments,
            embeds,
            pack.prompts.segments,
        )
        return ((prediction.float() - pack.target).square() * (pack.weight * pack.made)[:, None]).sum(dim=1)


def build_denoiser(config: RunConfig, codec: LatentCodec) -> Denoiser:
    """Text encoder and transformer with random weights, or those of ``train.init_from``, frozen under an adapter where
    ``train.lora.rank`` asks for one."""
    torch.manual_seed(config.seed)
    trained_on = {
        "sample_sizes": [list(size) for size in config.data.sizes],
        "sample_latent_frames": codec.num_latent_frames(config.data.window_frames),
        "frame_rate": config.data.frame_rates[0],
    }
    if config.train.init_from:
        denoiser = load_denoiser(config, codec, trained_on)
        if config.train.lora.rank:
            denoiser.text_encoder.requires_grad_(False)
            add_lora(denoiser.transformer, config.train.lora)
        return denoiser
    tokenizer, text_encoder = load_text_encoder(config.text)
    transformer = VideoDiT(
        in_channels=codec.latent_channels,
        text_dim=text_encoder.config.hidden_size,
        **asdict(config.model),
        **trained_on,
    )
    return Denoiser(transformer, tokenizer, text_encoder)


def load_denoiser(config: RunConfig, codec: LatentCodec, trained_on: dict) -> Denoiser:
    """The weights of the model folder ``train.init_from``, to go on with.

    Raises:
        ValueError: it is no model folder, its autoencoder is another one, or ``model.*``, ``noise.*`` or ``text.*`` say
            otherwise.
    """
    folder = config.train.init_from
    pipe = load_model(folder, torch.float32)
    if pipe.codec.fingerprint() != codec.fingerprint():
        raise ValueError(f"train.init_from={folder} has another autoencoder than vae.path: use vae.path={folder}")
    check_start("model", asdict(config.model), pipe.transformer.config, folder)
    check_start("noise", noise_facts(model_scheduler(config.noise)), noise_facts(pipe.scheduler), folder)
    pipe.transformer.register_to_config(**trained_on)
    tokenizer, text_encoder = load_text_encoder(config.text)
    if config.text.encoder:
        if fingerprint(text_encoder) != fingerprint(pipe.text_encoder):
            frozen = f"text.encoder={config.text.encoder}"
            raise ValueError(f"{frozen} is not that of train.init_from={folder}: use text.encoder={folder}")
        return Denoiser(pipe.transformer, tokenizer, text_encoder)
    try:
        text_encoder.load_state_dict(pipe.text_encoder.state_dict())
    except RuntimeError:  # another kind, or other sizes
        raise ValueError(
            f"train.init_from={folder} has another text encoder than text.* describes: "
            "set text.encoder to the name of a frozen one, or the sizes of a byte-level one"
        ) from None
    return Denoiser(pipe.transformer, tokenizer, text_encoder)


def checkpoint_facts(module: Denoiser, config: RunConfig, codec: LatentCodec) -> dict[str, str]:
    """What the trained weights of a checkpoint go with, and it does not hold: settings, fingerprints of what is frozen,
    and how strong the adapter is. To be taken before ZeRO cuts the weights up."""
    facts = {f"noise.{name}": value for name, value in noise_facts(model_scheduler(config.noise)).items()}
    facts |= {f"model.{name}": str(value) for name, value in asdict(config.model).items()}
    facts |= {"distill.steps": str(list(config.distill.steps)), "fingerprint of vae.path": codec.fingerprint()}
    if (lora := config.train.lora).rank:
        facts["fingerprint of train.init_from"] = fingerprint(module.transformer)
        facts["train.lora.alpha"] = str(float(lora.alpha or lora.rank))
    if not any(p.requires_grad for p in module.text_encoder.parameters()):
        facts["fingerprint of the frozen text encoder"] = fingerprint(module.text_encoder)
    return facts


def averaged_pipeline(
    module: Denoiser, folder: Path, codec: LatentCodec, noise: NoiseConfig, device: torch.device
) -> VideoPipeline:
    """A pipeline with the averaged weights that a checkpoint holds, in bf16; frozen weights are the module's own."""
    transformer = VideoDiT.from_config(module.transformer.config)
    text_encoder = type(module.text_encoder)(module.text_encoder.config)
    copy_adapter(module.transformer, transformer)
    copy = Denoiser(transformer, module.tokenizer, text_encoder)
    found = copy.load_state_dict(averaged_weights(module, folder), strict=False)
    assert not found.unexpected_keys, found.unexpected_keys
    left = {name for name, _ in copy.named_parameters()} & set(found.missing_keys)  # buffers and second names may be
    assert not left, left
    copy.to(device=device, dtype=torch.bfloat16).eval()
    return VideoPipeline(
        transformer=transformer,
        vae=codec.vae,
        text_encoder=text_encoder,
        tokenizer=module.tokenizer,
        scheduler=model_scheduler(noise),
    )
