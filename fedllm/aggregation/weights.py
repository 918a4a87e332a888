"""How much an update counts: public integers, fixed in the plan and never divided before the round closes."""

from typing import Literal

from fedllm.errors import RefusedError


def weight(weighting: Literal["examples", "work", "equal"], planned: int, steps: int) -> int:
    """Weigh one accepted update.

    Args:
        weighting: `examples` and `equal` count as planned; `work` counts examples that were processed.
        planned: the plan's integer for this site; under `work` it is the batch size.
        steps: local steps that the round verified, at most what the plan asked for.

    Returns:
        The unnormalised weight, at least 1 (`closed.json` holds no update that counts for nothing).

    Raises:
        RefusedError: the weight would be 0 or less.
    """
    chosen = planned * steps if weighting == "work" else planned
    if chosen < 1:
        raise RefusedError(f"the update would count for {chosen}: planned weight {planned}, steps {steps}")
    return chosen
