"""A whole site as the unit of privacy: its update is clipped, and it adds its share of the noise."""

import math

import torch

from fedllm.privacy.noise import NoiseSource, SecureNoise
from fedllm.privacy.terms import PrivateTerms


def clip_update(update: torch.Tensor, clip: float) -> torch.Tensor:
    """Constrain a site's sensitivity: its update, (n,), scaled to an L2 norm of at most `clip`."""
    norm = float(update.double().norm())
    if not math.isfinite(norm):
        return torch.zeros_like(update)
    return update * min(1.0, clip / max(norm, 1e-12))


def hide_site(update: torch.Tensor, terms: PrivateTerms, noise: NoiseSource | None = None) -> torch.Tensor:
    """Clip an update and add this site's share of the Gaussian noise.

    McMahan et al. 2018 (arXiv 1710.06963), with the noise drawn by the sites: summed over `min_honest` honest
    survivors it has the standard deviation sigma times clip; more survivors only add to it.

    Args:
        update: (n,) fp32.
        terms: clip, noise multiplier and how many honest survivors are counted on.
        noise: the source; a fresh cryptographic one if it is not given.
    """
    share = terms.noise_multiplier * terms.clip / math.sqrt(terms.min_honest)
    drawn = (noise or SecureNoise()).normal(update.shape, share)
    return clip_update(update, terms.clip) + drawn
