"""A whole site as the unit of privacy: its update is clipped, and it adds its share of the noise."""

import math

import torch

from fedllm.privacy.grid import EXACT_IN_FP32, Grid
from fedllm.privacy.noise import NoiseSource, SecureNoise
from fedllm.protocol.terms import PrivateTerms


def hide_site(update: torch.Tensor, terms: PrivateTerms, noise: NoiseSource | None = None) -> torch.Tensor:
    """Clip an update and add this site's share of the Gaussian noise.

    McMahan et al. 2018 (arXiv 1710.06963), with the noise drawn by the sites: summed over `min_honest` honest
    survivors it has the standard deviation sigma times clip; more survivors only add to it.

    Args:
        update: (n,) fp32; one that is not finite counts as zero.
        terms: clip, noise multiplier and how many honest survivors are counted on.
        noise: the source; a fresh cryptographic one if it is not given.

    Returns:
        (n,) fp32.
    """
    # The sum over sites hides what the shares do not, so each must arrive as it is: in fp32.
    grid = Grid(terms.clip, terms.noise_multiplier * terms.clip / math.sqrt(terms.min_honest), EXACT_IN_FP32)
    (hidden,) = grid.hide(grid.sum_clipped([update[None]]), noise or SecureNoise())
    return hidden.float()
