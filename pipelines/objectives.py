"""What a fit of side paths minimises: the plain error, DreamBooth with prior preservation, and DCO.

Functions of the errors of single rows; which rows a step sees is the affair of `fit.py`.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F

OBJECTIVES = ("dreambooth", "dco")


def row_errors(pred: torch.Tensor, wanted: torch.Tensor, weights: torch.Tensor | None = None) -> torch.Tensor:
    """Compute the mean squared error of each row.

    Shapes: pred and wanted (b, c, h, w), weights (b, 1, h, w) of mean 1 or None; returns (b,).
    """
    squares = (pred - wanted).square()
    return (squares if weights is None else squares * weights).mean((1, 2, 3))


def dreambooth(errors: torch.Tensor, prior_errors: torch.Tensor, prior_weight: float) -> torch.Tensor:
    """Keep the subject and, with pictures of its class that the model drew itself, the class.

    Shapes: errors (b,) of the subject's pictures, prior_errors (p,) of the class's pictures, p may be 0.
    Source: Ruiz et al. 2022, DreamBooth, arXiv 2208.12242, equation 2.
    """
    loss = errors.mean()
    return loss + prior_weight * prior_errors.mean() if len(prior_errors) else loss


def dco(errors: torch.Tensor, base_errors: torch.Tensor, beta: float, draws: int = 1) -> torch.Tensor:
    """Prefer the tuned model to the one it started from, as long as it is not clearly better already.

    Shapes:  errors and base_errors (b,) of the same noisy rows, b a multiple of draws; rows of one picture in a row.
    Units:   beta is 1 / error; draws rows of a picture are averaged before the sigmoid.
    Returns: -log sigmoid(-beta (error - base_error)), ln 2 while both models are equal.
    Source:  Lee et al. 2024, Direct Consistency Optimization, arXiv 2402.12004.
    Differs: several noises of one picture share a sigmoid, because the errors of small latents are noisy.
    """
    gaps = (errors - base_errors).view(-1, draws).mean(1)
    return -F.logsigmoid(-beta * gaps).mean()
