import random
import subprocess
import sys

import pytest
import torch

from fedllm.models.scattering import Scattering, as_pixels, strokes

IMAGES = [random.Random(i).randbytes(784) for i in range(20)]


@pytest.fixture(scope="module")
def features() -> Scattering:
    return Scattering()


def by_hand(transform: object, pixels: torch.Tensor) -> torch.Tensor:
    """27 groups of 147 values, each brought to mean 0 and variance 1."""
    groups = transform(pixels).reshape(-1, 27, 147)  # type: ignore[operator]  # untyped
    centred = groups - groups.mean(2, keepdim=True)
    scaled = centred / (groups.var(2, unbiased=False, keepdim=True) + 1e-5).sqrt()
    return scaled.reshape(-1, 3969)


def test_features_are_the_normalised_transform_less_the_mean_of_strokes(features: Scattering) -> None:
    due = by_hand(features._transform, as_pixels(IMAGES)) - by_hand(features._transform, strokes()).mean(0)
    torch.testing.assert_close(features(IMAGES), due, atol=4e-3, rtol=1e-3)  # fp16 keeps 3 digits


def test_an_images_features_do_not_depend_on_the_others(features: Scattering) -> None:
    alone = torch.cat([Scattering()([image]) for image in IMAGES[:2]])
    torch.testing.assert_close(features(IMAGES)[:2], alone, atol=2e-3, rtol=1e-3)


def test_a_known_image_is_not_computed_again() -> None:
    mine = Scattering()
    seen: list[int] = []
    transform = mine._transform

    def counted(pixels: torch.Tensor) -> torch.Tensor:
        seen.append(len(pixels))
        found: torch.Tensor = transform(pixels)
        return found

    mine._transform = counted
    first = mine([*IMAGES, IMAGES[0]])
    assert torch.equal(mine([bytes(image) for image in IMAGES]), first[:20])
    assert sum(seen) == 20


def test_strokes_are_pictures_in_a_box_of_twenty_and_always_the_same() -> None:
    drawn = strokes()
    assert drawn.shape == (500, 28, 28)
    assert drawn.min() == 0
    assert drawn.max() == 1
    ink = drawn.mean((1, 2))
    assert ink.min() > 0.02
    assert ink.max() < 0.5
    assert torch.equal(drawn, strokes())


def test_the_number_of_threads_is_left_as_it_was(features: Scattering) -> None:
    before = torch.get_num_threads()
    features([bytes(784)])
    assert torch.get_num_threads() == before


@pytest.mark.servers
def test_without_kymatio_one_line_says_what_to_install() -> None:
    code = (
        "import sys\n"
        "sys.modules['kymatio'] = None\n"
        "from fedllm.errors import ModelError\n"
        "from fedllm.models.scattering import Scattering\n"
        "try:\n"
        "    Scattering()\n"
        "except ModelError as error:\n"
        "    print(error)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.stdout == "mnist-scattering needs kymatio: pip install 'fedllm[vision]'\n", done.stderr[-500:]


def test_scipy_is_left_as_it_was() -> None:
    import scipy.special

    before = hasattr(scipy.special, "sph_harm")
    Scattering()
    assert hasattr(scipy.special, "sph_harm") == before
