from pathlib import Path

import pytest

from fedllm.config import load_federation, load_site
from fedllm.errors import ConfigError

ROOT = Path(__file__).parents[2]
PARAMS = ROOT / "params.yaml"


def test_the_default_file_says_what_the_main_job_is() -> None:
    config = load_federation(PARAMS)
    assert config.name == "sentiment"
    assert config.rounds.deadline == 900.0
    assert config.local.lr == pytest.approx(config.local.lr)
    assert config.simulation is not None
    assert config.simulation.names == ("amazon", "movies", "nyt", "tweets")
    assert config.task.template == "Text: {text}\nSentiment:"


@pytest.mark.parametrize(
    ("override", "read"),
    [
        ("rounds.max=5", lambda c: c.rounds.max == 5),
        ("local.lr=2e-3", lambda c: c.local.lr == 0.002),
        ("rounds.deadline=90s", lambda c: c.rounds.deadline == 90),
        ("simulation.sites=3", lambda c: c.simulation.names == ("site-1", "site-2", "site-3")),
        ("simulation.partition=iid", lambda c: c.simulation.partition.by == "iid"),
        ("simulation.partition={dirichlet: 0.1}", lambda c: c.simulation.partition.alpha == 0.1),
        ("simulation.partition={shards: 4}", lambda c: c.simulation.partition.shards == 4),
        ("model.adapter.layers=[0, 1]", lambda c: c.model.adapter.layers == (0, 1)),
        ("aggregation.weighting=work", lambda c: c.aggregation.weighting == "work"),
        ("aggregation.combine=median", lambda c: c.aggregation.combine == "median"),
        ("codec=fp16", lambda c: c.codec == "fp16"),
    ],
)
def test_set_changes_one_value(override: str, read) -> None:  # type: ignore[no-untyped-def]  # noqa: ANN001
    assert read(load_federation(PARAMS, [override]))


@pytest.mark.parametrize(
    ("override", "said"),
    [
        ("rounds.maxx=5", "unknown key 'rounds.maxx', did you mean 'max'?"),
        ("agregation.strategy=fedavg", "did you mean 'aggregation'?"),
        ("simulation.partition={by: silo, alpa: 1}", "did you mean 'alpha'?"),
        ("rounds.max=0", "rounds.max"),
        ("rounds.deadline=soon", "'soon' is no duration: write 90s, 15m or 2h"),
        ("local.algorithm=fedprox", "prox_mu must be above 0"),
        ("local.prox_mu=0.1", "set local.algorithm to fedprox"),
        ("store.url=s3://bucket", "store.endpoint is needed"),
        ("store.url=gs://bucket", "use auto, s3://bucket or file:///folder"),
        ('task.template="{prompt}"', "template names ['prompt']"),
        ("task.labels={positive: p}", "at least two labels"),
        ("name=No Spaces", "name"),
        ("privacy.unit=record", "privacy.unit"),
        ("codec=FP 16", "codec=FP 16: 'FP 16' cannot be one"),
        ("aggregation.combine=mode", "aggregation.combine"),
        ("confidentiality=secagg", "confidentiality"),
        ("rounds", "write it as key.part=value"),
        ("name.x=1", "is a value, not a group"),
    ],
)
def test_what_cannot_be_meant_is_refused_with_the_field_and_the_way_out(override: str, said: str) -> None:
    with pytest.raises(ConfigError) as refused:
        load_federation(PARAMS, [override])
    assert said in str(refused.value)
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize("text", ["", "- a list", "name: [unclosed", "name: \x00"])
def test_a_file_that_is_no_configuration_is_refused_in_one_line(text: str, tmp_path: Path) -> None:
    path = tmp_path / "broken.yaml"
    path.write_text(text)
    with pytest.raises(ConfigError, match=r"broken\.yaml"):
        load_federation(path)


def test_a_sites_data_are_found_beside_its_file(tmp_path: Path) -> None:
    (tmp_path / "site.yaml").write_text("{name: movies, data: records.jsonl, policy: {max_steps: 5}}")
    site = load_site(tmp_path / "site.yaml")
    assert site.data == tmp_path / "records.jsonl"
    assert site.policy.max_steps == 5


@pytest.mark.parametrize(
    ("override", "read"),
    [
        ("task.template={text}", lambda c: c.task.template == "{text}"),
        ("task.template=Text: {text}", lambda c: c.task.template == "Text: {text}"),
        ("task.template={text} {", lambda c: c.task.template == "{text} {"),
        (r'task.template="{text}\n"', lambda c: c.task.template == "{text}\n"),
        ("name=2026", lambda c: c.name == "2026"),
        ("task.labels.positive=yes", lambda c: c.task.labels["positive"] == "yes"),
        ("store.endpoint=null", lambda c: c.store.endpoint is None),
        ("evaluation.limit=null", lambda c: c.evaluation.limit is None),
    ],
)
def test_a_setting_that_is_a_text_takes_the_text_as_it_is(override: str, read) -> None:  # type: ignore[no-untyped-def]  # noqa: ANN001
    assert read(load_federation(PARAMS, [override]))


def test_a_file_that_begins_with_a_byte_order_mark_is_read(tmp_path: Path) -> None:
    path = tmp_path / "params.yaml"
    path.write_bytes(b"\xef\xbb\xbf" + PARAMS.read_bytes())
    assert load_federation(path).name == "sentiment"


def test_a_key_that_is_written_twice_is_refused_in_a_site_file(tmp_path: Path) -> None:
    (tmp_path / "site.yaml").write_text(
        "name: movies\ndata: a.jsonl\npolicy: {max_steps: 5}\ndata: b.jsonl\n"
    )
    with pytest.raises(ConfigError, match="the key 'data' is written in line 2 and in line 4: keep one"):
        load_site(tmp_path / "site.yaml")


def test_a_key_may_be_written_once_in_each_group(tmp_path: Path) -> None:
    (tmp_path / "site.yaml").write_text("name: movies\ndata: a.jsonl\npolicy: {max_steps: 5, max_rank: 5}\n")
    assert load_site(tmp_path / "site.yaml").policy.max_rank == 5


def test_an_empty_site_file_is_told_in_words(tmp_path: Path) -> None:
    (tmp_path / "site.yaml").write_text("")
    with pytest.raises(ConfigError, match="the file is empty; `fedllm site init` writes one"):
        load_site(tmp_path / "site.yaml")


@pytest.mark.parametrize(
    ("override", "reason"),
    [
        (
            "codec=fp16",
            "codec must be fp32 with privacy.unit site: the noise of all sites together",
        ),
        ("aggregation.combine=median", "aggregation.combine must be mean with privacy.unit site"),
    ],
)
def test_where_the_sites_noise_adds_up_nothing_goes_that_is_no_exact_sum(override: str, reason: str) -> None:
    site = "privacy={unit: site, epsilon: 8, clip: 0.1}"
    record = "privacy={unit: record, epsilon: 8, clip: 0.1, sampling_rate: 0.1}"
    equal = "aggregation.weighting=equal"
    assert load_federation(PARAMS, [equal, site])
    assert load_federation(PARAMS, [equal, record, override])
    with pytest.raises(ConfigError) as refused:
        load_federation(PARAMS, [equal, site, override])
    assert reason in str(refused.value)
