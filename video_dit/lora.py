"""Low-rank adapters of the transformer (LoRA, Hu et al., 2021, arXiv:2106.09685): added, saved, loaded.

A file is in the format of diffusers and peft. What it says besides is which weights it was trained on: on others it
would do something, but not what it was trained for.
"""

import hashlib
import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

import torch
from diffusers.loaders.lora_base import LORA_ADAPTER_METADATA_KEY, LORA_WEIGHT_NAME_SAFE
from diffusers.loaders.peft import PeftAdapterMixin
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

if TYPE_CHECKING:
    from video_dit.model import VideoDiT

ADAPTER = "default"
PREFIX = "transformer"  # of names in a file: the part of the pipeline
MORE_THAN_A_PRODUCT = ("alpha_pattern", "lora_bias", "modules_to_save", "use_dora", "use_rslora")
"""Settings of peft by which an adapter does more, or in another strength, than ``alpha / rank · B A``."""
SAMPLED = 1024  # numbers of each tensor that a fingerprint looks at


@dataclass(frozen=True)
class LoRAConfig:
    """rank: of the adapter; 0 trains all weights. alpha: its strength is ``alpha / rank``; 0 takes the rank. targets:
    ends of the names of the linear layers that get one, by default the projections of attention and feed-forward.

    Raises:
        ValueError: a value is out of its range, or peft is missing.
    """

    rank: int = 0
    alpha: float = 0.0
    targets: list[str] = field(default_factory=lambda: ["to_q", "to_k", "to_v", "to_out", "ff.up", "ff.down"])

    def __post_init__(self) -> None:
        for name in ("rank", "alpha"):
            if not 0 <= getattr(self, name) < float("inf"):
                raise ValueError(f"train.lora.{name}={getattr(self, name)} must be 0 or more")
        if self.rank and not self.targets:
            raise ValueError("train.lora.targets=[] must name at least one layer, such as to_q")
        if self.rank:
            check_peft(f"train.lora.rank={self.rank}")


def check_peft(asked: str) -> None:
    """Raises ValueError where peft, which ``asked`` needs, is not installed."""
    if find_spec("peft") is None:
        raise ValueError(f"{asked} needs the package peft: pip install peft")


def add_lora(transformer: "VideoDiT", config: LoRAConfig) -> None:
    """Add an adapter, which changes nothing until it is trained; all other weights are frozen, by peft.

    Raises:
        ValueError: a target is no linear layer of the transformer.
    """
    from peft import LoraConfig

    layers = [name for name, module in transformer.named_modules() if isinstance(module, torch.nn.Linear)]
    for target in config.targets:
        if not any(name == target or name.endswith(f".{target}") for name in layers):
            ends = sorted({name.split(".")[-1] for name in layers})
            raise ValueError(f"train.lora.targets has {target}, which ends no name: use some of {', '.join(ends)}")
    alpha = config.alpha or config.rank
    transformer.add_adapter(
        LoraConfig(r=config.rank, lora_alpha=alpha, target_modules=list(config.targets)),  # type: ignore[arg-type]
        ADAPTER,
    )


def copy_adapter(source: "VideoDiT", target: "VideoDiT") -> None:
    """Give ``target`` an adapter like that of ``source``, if it has one; the weights are new."""
    if (config := getattr(source, "peft_config", {}).get(ADAPTER)) is not None:
        target.add_adapter(config, ADAPTER)


@contextmanager
def without_adapter(transformer: "VideoDiT") -> Iterator[None]:
    """The model as it was before an adapter was added, for as long as the block runs; it may have none."""
    if not getattr(transformer, "peft_config", None):
        yield
        return
    transformer.disable_adapters()
    try:
        yield
    finally:
        transformer.enable_adapters()


def save_lora(
    transformer: "VideoDiT", folder: Path, base: str, facts: Mapping[str, str] = MappingProxyType({})
) -> Path:
    """Write the adapter into ``folder``; ``base`` is the name of the model that it was trained on, ``facts`` is what
    else the file says of itself."""
    from peft import get_peft_model_state_dict

    state = get_peft_model_state_dict(transformer, adapter_name=ADAPTER)
    settings = transformer.peft_config[ADAPTER].to_dict()
    told = {f"{PREFIX}.{name}": sorted(v) if isinstance(v, set) else v for name, v in settings.items()}
    metadata = {"format": "pt", LORA_ADAPTER_METADATA_KEY: json.dumps(told, sort_keys=True)}
    metadata |= {"base": base, "base_fingerprint": fingerprint(transformer), **facts}
    path = folder / LORA_WEIGHT_NAME_SAFE
    save_file({f"{PREFIX}.{name}": tensor.contiguous() for name, tensor in state.items()}, path, metadata=metadata)
    return path


def load_lora(transformer: "VideoDiT", path: str | Path) -> None:
    """Add the adapter of a file, or of the folder that it lies in, to the transformer.

    Raises:
        ValueError: peft is missing, the file is missing or no adapter, or the adapter was trained on other weights.
    """
    if not isinstance(transformer, PeftAdapterMixin):
        raise ValueError(f"LoRA {path} goes with models that train.py wrote: leave --lora out for a published one")
    check_peft(f"LoRA {path}")
    state, settings = _read_for(transformer, path)
    transformer.load_lora_adapter(state, prefix=PREFIX, adapter_name=ADAPTER, metadata=settings)


@torch.no_grad()
def merge_lora(transformer: "VideoDiT", path: str | Path) -> None:
    """Add what the adapter of a file, or of the folder that it lies in, makes to the weights themselves: they become
    ``W + alpha / rank · B A``, rounded once to their own type. No peft is needed, and sampling costs no more.

    Raises:
        ValueError: the file is missing or no adapter, was trained on other weights, or is of a kind that does more.
    """
    state, settings = _read_for(transformer, path)
    told = {name.removeprefix(f"{PREFIX}."): value for name, value in (settings or {}).items()}
    if others := sorted(name for name in MORE_THAN_A_PRODUCT if told.get(name)):
        raise ValueError(f"LoRA {path} has {others[0]}={told[others[0]]} and cannot be merged: train one without it")
    layers = dict(transformer.named_modules())
    for name, down in state.items():
        layer, _, half = name.removeprefix(f"{PREFIX}.").rpartition(".lora_")
        if not half.startswith("A"):
            continue
        up = state[name.replace(".lora_A.", ".lora_B.")]
        weight = layers[layer].weight
        update = up.float() @ down.float() * (told.get("lora_alpha", len(down)) / len(down))  # out in
        weight.copy_(weight.float() + update.to(weight.device))


def _read_for(transformer: "VideoDiT", path: str | Path) -> tuple[dict[str, Tensor], dict[str, Any] | None]:
    """The weights of an adapter that fits, and peft's settings of it where the file has them."""
    state, metadata = _read(find_lora(path))
    if not state:
        raise ValueError(f"LoRA {path} holds no adapter of a {PREFIX}: give a file that train.py wrote")
    told = metadata.get("base_fingerprint")
    if told is not None and told != fingerprint(transformer):
        raise ValueError(f"LoRA {path} was trained on another model: use --model {metadata.get('base', '…')}")
    ranks = {name: tensor.shape[1 if ".lora_B." in name else 0] for name, tensor in state.items() if tensor.ndim == 2}
    for name in state:
        other = name.replace(".lora_A.", ".lora_B.") if ".lora_A." in name else name.replace(".lora_B.", ".lora_A.")
        if name not in ranks or ranks[name] != ranks.get(other):
            raise ValueError(f"LoRA {path} is damaged: {name} and its other half do not fit; copy it again")
    sizes = {name: tuple(module.weight.shape) for name, module in transformer.named_modules() if _is_linear(module)}
    for name, tensor in state.items():
        layer, _, half = name.removeprefix(f"{PREFIX}.").rpartition(".lora_")
        width = sizes.get(layer, (0, 0))
        fits = tensor.shape[1] == width[1] if half.startswith("A") else tensor.shape[0] == width[0]
        if not fits:
            raise ValueError(f"LoRA {path} does not fit this model: {layer} has other sizes there, or is missing here")
    return state, json.loads(metadata[LORA_ADAPTER_METADATA_KEY]) if LORA_ADAPTER_METADATA_KEY in metadata else None


def lora_facts(path: Path) -> dict[str, str]:
    """What the file of an adapter says of itself (see `save_lora`)."""
    return _read(find_lora(path))[1]


def find_lora(path: str | Path) -> Path:
    """The file itself, or the one in the folder; ValueError where there is none."""
    file = Path(path, LORA_WEIGHT_NAME_SAFE) if Path(path).is_dir() else Path(path)
    if not file.is_file():
        raise ValueError(f"LoRA {path}: no such file; give the folder lora/ of a run, or {LORA_WEIGHT_NAME_SAFE}")
    return file


def fingerprint(module: nn.Module) -> str:
    """A hash of a module's weights without those of an adapter, the same in bf16 and in fp32: of names, shapes and some
    of the numbers of each."""
    digest = hashlib.blake2b(digest_size=8)
    for name, tensor in sorted(_base_weights(module).items()):
        flat = tensor.detach().flatten()
        part = flat[:: max(1, len(flat) // SAMPLED)].bfloat16().float().cpu()
        digest.update(f"{name} {tuple(tensor.shape)}".encode() + part.numpy().tobytes())
    return digest.hexdigest()


def _base_weights(module: nn.Module) -> Mapping[str, Tensor]:
    """By the names that they have without an adapter."""
    state = module.state_dict()
    return {name.replace(".base_layer.", "."): tensor for name, tensor in state.items() if ".lora_" not in name}


def _is_linear(module: Any) -> bool:
    return isinstance(module, torch.nn.Linear)


def _read(file: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    try:
        with safe_open(file, framework="pt") as opened:
            names = [name for name in opened.keys() if ".lora_" in name]  # noqa: SIM118 (not a mapping)
            state = {name: opened.get_tensor(name) for name in names if name.startswith(f"{PREFIX}.")}
            return state, opened.metadata() or {}
    except (SafetensorError, OSError) as error:
        raise ValueError(f"LoRA {file} is no safetensors file ({error}): copy it again") from None
