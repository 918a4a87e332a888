from pathlib import Path

import pytest

from fedllm.config import load_site
from fedllm.errors import ConfigError

MARK = "abcd-efgh-ijkl-mnop-qrst-uvwx-yz23-4567"


def site(folder: Path, policy: str) -> Path:
    file = folder / "site.yaml"
    file.write_text(f"name: amazon\ndata: amazon.jsonl\npolicy: {policy}\n")
    return file


def test_peers_hours_and_sizes_are_read(tmp_path: Path) -> None:
    text = (
        f"{{peers: {{movies: {MARK}}}, min_peers: 1, hours: 22:00-06:00, max_seconds: 2h, max_bytes: 1000}}"
    )
    policy = load_site(site(tmp_path, text)).policy
    assert (policy.peers, policy.min_peers, policy.hours) == ({"movies": MARK}, 1, "22:00-06:00")
    assert (policy.max_seconds, policy.max_bytes) == (7200.0, 1000)


@pytest.mark.parametrize(
    ("written", "size"), [("6GiB", 6 << 30), ("1.5 GiB", 3 << 29), ("600MiB", 600 << 20), (2**30, 2**30)]
)
def test_what_a_training_may_take_is_read(tmp_path: Path, written: object, size: int) -> None:
    text = f"{{max_memory: {written}, max_training: 30m, max_batch_tokens: 65536}}"
    policy = load_site(site(tmp_path, text)).policy
    assert (policy.max_memory, policy.max_training, policy.max_batch_tokens) == (size, 1800.0, 65536)


@pytest.mark.parametrize(
    ("policy", "right"),
    [
        ("{peer: {}}", "did you mean 'peers'?"),
        ("{min_peer: 1}", "did you mean 'min_peers'?"),
        ("{max_byte: 1}", "did you mean 'max_bytes'?"),
        (f"{{peers: {{movies: '{MARK.upper()}'}}}}", f"did you mean '{MARK}'?"),
        (f"{{peers: {{movies: '{MARK.replace('-', ' ')}'}}}}", f"did you mean '{MARK}'?"),
        (
            "{peers: {movies: abcd-efgh}}",
            "policy.peers.movies: 'abcd-efgh' is no fingerprint: write eight groups",
        ),
        (f"{{peers: {{Movies: {MARK}}}}}", "policy.peers.Movies"),
        (f"{{peers: {{amazon: {MARK}}}}}", "policy.peers names this site itself"),
        ("{min_peers: 1}", "policy.min_peers is 1, but policy.peers names 0"),
        ("{hours: at night}", "write begin and end, such as 22:00-06:00"),
        ("{hours: 24:00-06:00}", "are no hours"),
        ("{hours: 06:00-06:00}", "are no hours"),
        ("{max_bytes: 0}", "policy.max_bytes"),
        ("{max_memory: 6GB}", "policy.max_memory: '6GB' is no number of bytes: write 512MiB, 6GiB or 1.5GiB"),
        ("{max_memory: 4}", "policy.max_memory: 4 bytes are not enough for any training"),
        ("{max_memory: -6GiB}", "policy.max_memory: '-6GiB' is no number of bytes"),
        ("{max_training: forever}", "policy.max_training: 'forever' is no duration"),
        ("{max_training: 0}", "policy.max_training: must be greater than 0"),
        ("{max_batch_tokens: 0}", "policy.max_batch_tokens: must be greater than or equal to 8"),
        ("{max_batch_token: 9}", "did you mean 'max_batch_tokens'?"),
    ],
)
def test_what_a_policy_cannot_mean_is_refused_with_what_would_be_right(
    tmp_path: Path, policy: str, right: str
) -> None:
    with pytest.raises(ConfigError) as refused:
        load_site(site(tmp_path, policy))
    assert right in str(refused.value)
    assert "\n" not in str(refused.value)
