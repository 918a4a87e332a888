"""Clip and noise the update of a site that is itself the unit of privacy."""

import math

import torch

from fedllm.privacy.grid import EXACT_IN_FP32, Grid
from fedllm.privacy.noise import NoiseSource, SecureNoise
from fedllm.protocol.terms import PrivateTerms


def hide_site(update: torch.Tensor, terms: PrivateTerms, noise: NoiseSource | None = None) -> torch.Tensor:
    """Clip an update and add this site's share of the Gaussian noise.

    McMahan et al. 2018 (arXiv 1710.06963), with the noise drawn by the sites: summed over `min_honest` honest
    survivors it has the standard deviation sigma times clip; more survivors add more noise.

    Args:
        update: (n,) fp32; one that is not finite counts as zero.
        terms: clip, noise multiplier and the assumed number of honest survivors.
        noise: the source; default: a fresh cryptographic one.

    Returns:
        (n,) fp32.
    """
    # Only the sum of the shares has the full noise, so each share must survive fp32 exactly.
    grid = Grid(terms.clip, terms.noise_multiplier * terms.clip / math.sqrt(terms.min_honest), EXACT_IN_FP32)
    (hidden,) = grid.hide(grid.sum_clipped([update[None]]), noise or SecureNoise())
    return hidden.float()
