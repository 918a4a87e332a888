"""What a codec is: the agreement between a site, which encodes an update, and its coordinator."""

from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    import torch


class Codec(Protocol):
    """How an update, a flat fp32 vector of shape (n,), becomes bytes.

    The plan names the codec of a round. Both sides know n from the plan's adapter, so the bytes carry no size
    that a reader would have to believe. The same vector and residual always give the same bytes.

    A codec that loses something keeps it as the residual and adds it to the next update of the same run
    (error feedback: Seide et al. 2014; Karimireddy et al. 2019, arXiv 1901.09847). The residual is the site's
    own. Under DP an update is encoded after its noise was added: bytes and residual are functions of noised
    updates alone, so they cost no privacy.
    """

    def encode(
        self, update: "torch.Tensor", residual: "torch.Tensor | None", /
    ) -> tuple[bytes, "torch.Tensor | None"]:
        """Encode an update at its site.

        Args:
            update: (n,) fp32.
            residual: what the run's last committed update left, (n,) fp32; None if it left nothing.

        Returns:
            The bytes, and what they lost of `update` and `residual`, (n,) fp32; None if the codec is exact.

        Raises:
            TrainingError: a number cannot be written in this format.
        """

    def decode(self, data: bytes, size: int, /) -> "torch.Tensor":
        """Read bytes from another party.

        Args:
            data: the whole payload; nothing in it is believed.
            size: n.

        Returns:
            (n,) fp32, all finite.

        Raises:
            RefusedError: this is not the one encoding of n finite numbers.
        """

    def most_bytes(self, size: int, /) -> int:
        """Return how many bytes n numbers take at most, besides a header of less than 1024 bytes."""

    def most_residual(self, norm: float, size: int, /) -> float:
        """Bound a residual for the audit of norms; 0 for an exact codec.

        Args:
            norm: L2 norm that no update of the run exceeds before it is encoded, or this one as decoded.
            size: n.

        Returns:
            The largest L2 norm of the residual that `encode` returns.
        """
