"""The configuration: the federation file, the site file, and the folders of fedllm."""

from fedllm.config.federation import (
    AdapterConfig,
    AggregationConfig,
    EvaluationConfig,
    FederationConfig,
    LocalConfig,
    ModelConfig,
    PartitionConfig,
    RoundsConfig,
    SimulationConfig,
    StoreConfig,
    TrackingConfig,
)
from fedllm.config.home import cache_dir, fedllm_home
from fedllm.config.load import load_federation, load_site
from fedllm.config.privacy import PrivacyConfig
from fedllm.config.site import PolicyConfig, SiteConfig
from fedllm.config.task import TaskConfig

__all__ = [
    "AdapterConfig",
    "AggregationConfig",
    "EvaluationConfig",
    "FederationConfig",
    "LocalConfig",
    "ModelConfig",
    "PartitionConfig",
    "PolicyConfig",
    "PrivacyConfig",
    "RoundsConfig",
    "SimulationConfig",
    "SiteConfig",
    "StoreConfig",
    "TaskConfig",
    "TrackingConfig",
    "cache_dir",
    "fedllm_home",
    "load_federation",
    "load_site",
]
