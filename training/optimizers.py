"""Muon for matrices and convolutions, AdamW for everything else, behind one object with an exact state.

The state is a flat dictionary of tensors, so that checkpoints are safetensors files and nothing is unpickled.
"""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import nn

_NEWTON_SCHULZ = (3.4445, -4.7750, 2.0315)


@torch.no_grad()
def orthogonalise(matrix: torch.Tensor, num_iterations: int = 5) -> torch.Tensor:
    """Push the singular values of a matrix towards 1.

    Shapes:  matrix (rows, columns); returned the same, in its dtype. Computed in bfloat16.
    Source:  Jordan 2024 (Muon), quintic Newton-Schulz iteration with its published coefficients.
    """
    a, b, c = _NEWTON_SCHULZ
    x = matrix.bfloat16()
    is_tall = x.shape[0] > x.shape[1]
    if is_tall:
        x = x.T
    x = x / (x.norm() + 1e-7)
    for _ in range(num_iterations):
        gram = x @ x.T
        x = a * x + (b * gram + c * gram @ gram) @ x
    return (x.T if is_tall else x).to(matrix.dtype)


class MuonAdamW:
    """One optimiser over two groups of parameters.

    Parameters with two or more dimensions take Muon steps (convolutions flattened to out x rest), except those
    whose name matches `adamw_names`; the rest take AdamW steps.

    Units:  muon_lr is relative: one step moves a matrix by muon_lr * 0.2 * sqrt(max(rows, columns)) in spectral norm.
    Source: Jordan 2024 (Muon); the 0.2 * sqrt factor makes a step about as long as AdamW's (Liu et al. 2025).
    """

    def __init__(
        self,
        named_parameters: Iterable[tuple[str, nn.Parameter]],
        *,
        muon_lr: float,
        adamw_lr: float,
        weight_decay: float = 0.01,
        momentum: float = 0.95,
        adamw_names: tuple[str, ...] = (),
    ) -> None:
        self.muon_lr, self.adamw_lr, self.weight_decay, self.momentum = muon_lr, adamw_lr, weight_decay, momentum
        self._muon: list[tuple[str, nn.Parameter]] = []
        rest: list[tuple[str, nn.Parameter]] = []
        for name, parameter in named_parameters:
            if parameter.requires_grad:
                is_matrix = parameter.ndim >= 2 and not any(part in name for part in adamw_names)
                (self._muon if is_matrix else rest).append((name, parameter))
        self._rest_names = [name for name, _ in rest]
        self._momenta = {name: torch.zeros_like(parameter) for name, parameter in self._muon}
        self._adamw = torch.optim.AdamW([p for _, p in rest], lr=adamw_lr, betas=(0.9, 0.99), weight_decay=0.0)

    @torch.no_grad()
    def step_(self, lr_scale: float) -> None:
        """Take one step with both learning rates multiplied by `lr_scale` (0..1) and drop the gradients."""
        for name, parameter in self._muon:
            if parameter.grad is None:
                continue
            moment = self._momenta[name]
            moment.mul_(self.momentum).add_(parameter.grad)
            nesterov = parameter.grad.add(moment, alpha=self.momentum)
            update = orthogonalise(nesterov.reshape(nesterov.shape[0], -1))
            lr = self.muon_lr * lr_scale
            parameter.mul_(1 - lr * self.weight_decay)
            parameter.add_(update.view_as(parameter), alpha=-lr * 0.2 * max(update.shape) ** 0.5)
            parameter.grad = None
        self._adamw.param_groups[0]["lr"] = self.adamw_lr * lr_scale
        self._adamw.step()
        self._adamw.zero_grad(set_to_none=True)

    def to_state(self) -> dict[str, torch.Tensor]:
        """Return every tensor that the next step depends on, by name."""
        state = {f"muon.{name}": moment for name, moment in self._momenta.items()}
        for name, parameter in zip(self._rest_names, self._adamw.param_groups[0]["params"], strict=True):
            for key, value in self._adamw.state.get(parameter, {}).items():
                state[f"adamw.{key}.{name}"] = value
        return state

    def load_state(self, state: dict[str, torch.Tensor]) -> None:
        """Restore what `to_state` returned.

        Raises: KeyError if a parameter of this optimiser has no momentum in the state.
        """
        for name, moment in self._momenta.items():
            moment.copy_(state[f"muon.{name}"])
        for name, parameter in zip(self._rest_names, self._adamw.param_groups[0]["params"], strict=True):
            keys = [key for key in ("step", "exp_avg", "exp_avg_sq") if f"adamw.{key}.{name}" in state]
            self._adamw.state[parameter] = {key: state[f"adamw.{key}.{name}"].clone() for key in keys}
