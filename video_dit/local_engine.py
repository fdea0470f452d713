"""Training on one rank without ZeRO: what DeepSpeed's engine is to the programs, for ``train.zero_stage=0``."""

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import accumulate, groupby
from math import prod
from typing import Any

import torch
from torch import Tensor, nn


@dataclass(frozen=True)
class _Group:
    """The parameters of one of the optimizer's groups, by shape.

    weights, gradients: of all, end to end, in the type that the module computes in. masters: the weights in fp32, which
    are the same tensor where that is the type. views: what each parameter's gradient must be.
    """

    params: list[nn.Parameter]
    weights: Tensor
    gradients: Tensor
    masters: Tensor
    views: list[Tensor]

    @classmethod
    def flatten(cls, params: list[nn.Parameter]) -> "_Group":
        """Make each parameter and its gradient a view of the group's."""
        params = sorted(params, key=lambda p: tuple(p.shape))
        weights = torch.cat([p.detach().flatten() for p in params])
        gradients = torch.zeros_like(weights)
        sizes = [p.numel() for p in params]
        views = [part.view_as(p) for p, part in zip(params, gradients.split(sizes), strict=True)]
        for p, weight, view in zip(params, weights.split(sizes), views, strict=True):
            p.data, p.grad = weight.view_as(p), view
        return cls(params, weights, gradients, weights.float(), views)

    def parts(self) -> Iterator[tuple[nn.Parameter, slice]]:
        """Each parameter, and where it stands."""
        ends = accumulate(p.numel() for p in self.params)
        for p, end in zip(self.params, ends, strict=True):
            yield p, slice(end - p.numel(), end)

    def stacks(self, flat: Tensor) -> Iterator[Tensor]:
        """The matrices of each shape that a tensor like ``masters`` holds, ``(k, rows, columns)``, as views."""
        at = 0
        for shape, run in groupby(tuple(p.shape) for p in self.params):
            count = len(list(run)) * prod(shape)
            yield flat[at : at + count].view(-1, *shape)
            at += count


class LocalEngine:
    """One device, nothing shared out.

    A step is some operations on whole groups of parameters, where those of ZeRO and its Muon are many for each: of a
    small model a GPU waits for them most of the time. What is computed is the same up to rounding; the momentum of Muon
    is in fp32 here.

    Args:
        module: all of it is moved to ``device`` and ``dtype``.
        optimizer: over the module's trained parameters, with a group ``use_muon`` where it is DeepSpeed's Muon.
        device, dtype: where and in what the module computes; masters are in fp32.
        accumulation: backward passes that make a step.
        max_grad_norm: longer gradients are cut to it; 0 leaves them.
    """

    global_rank = 0

    def __init__(
        self,
        module: nn.Module,
        optimizer: torch.optim.Optimizer,
        device: torch.device,
        dtype: torch.dtype,
        accumulation: int,
        max_grad_norm: float,
    ) -> None:
        self.module, self.device = module.to(device=device, dtype=dtype), device
        self.optimizer = self.basic_optimizer = optimizer
        self._accumulation, self._max_grad_norm, self._passes, self._applied = accumulation, max_grad_norm, 0, False
        self._groups = [_Group.flatten(group["params"]) for group in optimizer.param_groups]
        self._names = {id(p): name for name, p in module.named_parameters()}
        for settings, group in zip(optimizer.param_groups, self._groups, strict=True):
            settings["params"] = [group.masters]

    def __call__(self, *args: Any) -> Any:
        return self.module(*args)

    def backward(self, loss: Tensor) -> None:
        """Add the gradient of ``loss``, over the number of passes of a step."""
        (loss / self._accumulation).backward()
        self._passes += 1

    @torch.no_grad()
    def step(self) -> None:
        """Step, where this was the last pass of one, unless the gradient is not finite."""
        if self._passes % self._accumulation:
            return
        for group in self._groups:  # with another tensor as its gradient a parameter would learn nothing
            assert all(p.grad is view for p, view in zip(group.params, group.views, strict=True))
        norm = torch.stack([torch.linalg.vector_norm(g.gradients, dtype=torch.float32) for g in self._groups]).norm()
        self._applied = bool(norm.isfinite())
        if self._applied:
            cut = self._max_grad_norm / (norm + 1e-6)
            for settings, group in zip(self.optimizer.param_groups, self._groups, strict=True):
                gradient = group.gradients.float()
                if self._max_grad_norm:
                    gradient *= cut.clamp(max=1)
                if settings.get("use_muon"):
                    gradient = self._muon_update(gradient, group, settings["momentum"], settings["ns_method"])
                group.masters.grad = gradient
            self.optimizer.step()
            self.round_masters()
        for group in self._groups:
            group.masters.grad = None
            group.gradients.zero_()

    def _muon_update(self, gradient: Tensor, group: _Group, momentum: float, ns_method: str) -> Tensor:
        """What DeepSpeed's optimizer takes in place of the gradient of a flat tensor: its update of all matrices, those
        of a shape at a time, not compiled for each shape anew."""
        from deepspeed.runtime.zero.muon.original_muon import muon_update  # compiles kernels

        state = self.optimizer.state[group.masters]
        if "momentum_buffer" not in state:
            state["momentum_buffer"] = torch.zeros_like(group.masters)
        with torch.compiler.set_stance("force_eager"):
            for stack, buffer in zip(group.stacks(gradient), group.stacks(state["momentum_buffer"]), strict=True):
                stack.copy_(muon_update(stack, buffer, momentum, ns_method=ns_method))
        return gradient

    @torch.no_grad()
    def round_masters(self) -> None:
        """Let the module compute with the fp32 weights, rounded."""
        for group in self._groups:
            group.weights.copy_(group.masters)

    def was_step_applied(self) -> bool:
        """Whether the gradient of the last step was finite."""
        return self._applied

    def parts(self) -> Iterator[tuple[str, nn.Parameter, Tensor, slice]]:
        """Name of each trained parameter, itself, the optimizer's tensor that holds it, and where there."""
        for group in self._groups:
            for p, part in group.parts():
                yield self._names[id(p)], p, group.masters, part
