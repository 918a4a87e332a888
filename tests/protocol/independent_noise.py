"""What noise lets an update's norm be, and what Gaussian mechanisms cost: docs/protocol.md, section 8."""

import math
from typing import Any


def noise_std(plan: dict[str, Any], site: str, steps: int) -> float:
    """The noise in each number of an update that its last step by SGD adds, or a site as the unit."""
    privacy, local = plan["privacy"], plan["local"]
    sigma = privacy["sites"].get(site, privacy)["noise_multiplier"] * privacy["clip"]
    if privacy["unit"] == "site":
        return float(sigma / math.sqrt(privacy["min_honest"]))
    last, whole_run = (plan["round"] - 1) * local["steps"] + steps, plan["rounds"] * local["steps"]
    return float(sigma / local["batch_size"] * local["lr"] * rate(local, last, whole_run))


def rate(local: dict[str, Any], step: int, whole_run: int) -> float:
    """What a step's learning rate is multiplied by; steps count from 1 over the whole run."""
    if step <= local["warmup"]:
        return float(step / local["warmup"])
    done = min(1.0, (step - local["warmup"] - 1) / max(1, whole_run - local["warmup"]))
    if local["schedule"] == "cosine":
        return 0.5 * (1 + math.cos(math.pi * done))
    return 1 - done if local["schedule"] == "linear" else 1.0


def largest_norm(plan: dict[str, Any], site: str, steps: int, size: int, model_norm: float) -> float:
    """The L2 norm above which an update under DP does not count."""
    privacy, local = plan["privacy"], plan["local"]
    sigma, spread = privacy["sites"].get(site, privacy)["noise_multiplier"], math.sqrt(size) + 6.5
    if privacy["unit"] == "site":
        return 1.01 * float(privacy["clip"] + noise_std(plan, site, steps) * spread)
    heavy = 1 / (1 - local["momentum"]) if local["optimizer"] == "sgd" else 1.0
    if local["optimizer"] == "sgd":
        noise = sigma / local["batch_size"] * spread * math.sqrt(steps)
        moved = local["lr"] * heavy * privacy["clip"] * (10 * steps + noise)
    else:
        moved = steps * local["lr"] * 0.1 / math.sqrt(0.001) * math.sqrt(size)
    pulled = steps * local["lr"] * (local["weight_decay"] + local["prox_mu"]) * heavy
    return 1.01 * float(moved + pulled * (model_norm + moved))


def gaussian_epsilon(noise_multiplier: float, steps: int, delta: float) -> float:
    """Epsilon of so many Gaussian mechanisms with q = 1 (Balle and Wang 2018, theorem 8), by bisection."""
    mu = math.sqrt(steps) / noise_multiplier

    def phi(x: float) -> float:
        return 0.5 * math.erfc(-x / math.sqrt(2))

    low, high = 0.0, 500.0
    for _ in range(200):
        middle = (low + high) / 2
        spent = phi(mu / 2 - middle / mu) - math.exp(middle) * phi(-mu / 2 - middle / mu)
        low, high = (middle, high) if spent > delta else (low, middle)
    return high


def least_norm(plan: dict[str, Any], site: str, steps: int, size: int) -> float | None:
    """The L2 norm below which an update holds too little noise; None where its law is not known."""
    std = noise_std(plan, site, steps)
    if not std or (plan["privacy"]["unit"] != "site" and plan["local"]["optimizer"] != "sgd"):
        return None
    return std * math.sqrt(rare_chi_square(size))


def rare_chi_square(freedom: int, probability: float = 1e-9) -> float:
    """The quantile of a small probability, by bisection of the incomplete gamma function's series."""
    low, high = 0.0, float(freedom)
    for _ in range(200):
        middle = (low + high) / 2
        low, high = (middle, high) if _below(freedom / 2, middle / 2) < probability else (low, middle)
    return high


def _below(a: float, x: float) -> float:
    """The regularised lower incomplete gamma function for x < a (DLMF 8.11.4)."""
    if x <= 0:
        return 0.0
    term = total = 1.0
    count = 0
    while term > 1e-17 * total:
        count += 1
        term *= x / (a + count)
        total += term
    return total * math.exp(a * math.log(x) - x - math.lgamma(a + 1))
