"""Check the sites' cards in a flow: emit events for sites that fell silent, are back, or have new data."""

import time
from contextlib import closing
from typing import Any
from uuid import UUID

from prefect import flow, get_run_logger
from prefect.artifacts import create_table_artifact
from prefect.events.worker import EventsWorker

from fedllm.config import load_federation
from fedllm.coordinator.members import coordinator_identity, store_access
from fedllm.coordinator.site_watch import (
    DAYS,
    SILENT,
    Attention,
    SiteState,
    WatchEvent,
    forget_events,
    look_at_sites,
    untold_events,
)
from fedllm.exchange.mailbox import Mailbox
from fedllm.journal.journal import Journal
from fedllm.protocol.layout import Layout
from flows.events import emit
from flows.names import run_name
from flows.output import log_errors_in_one_line, survive_broken_pipes


@flow(name="site-watch", flow_run_name=run_name, persist_result=False)
def site_watch(
    config_uri: str = "params.yaml",
    silent_after: float = SILENT,
    new_data_sites: int | None = None,
    new_data_days: float = DAYS,
) -> dict[str, Any]:
    """Check every site's card once, and emit events for what changed since the last check.

    Args:
        config_uri: the federation's YAML file.
        silent_after: s without a card after which a site counts as silent.
        new_data_sites: number of sites with new data that trigger a round; null: `rounds.min_sites`.
        new_data_days: days within which they must announce it.

    Returns:
        The number of sites, the names of silent ones, and the names of the events.
    """
    survive_broken_pipes()
    log_errors_in_one_line()
    config = load_federation(config_uri)
    attention = Attention(silent_after, new_data_sites or config.rounds.min_sites, new_data_days)
    with closing(Journal(config.name)) as journal:
        mailbox = Mailbox(
            store_access(config).connect(), Layout(config.name), coordinator_identity(config.name)
        )
        sites = look_at_sites(config, journal, mailbox, attention)
        events = untold_events(journal)
        for event in events:
            emit(config.name, event.name, _payload(event), site=event.site, event_id=UUID(event.id))
        if events:
            EventsWorker.instance().wait_until_empty()
            forget_events(journal, events)
            _show(config.name, sites)
    silent = sorted(site.site for site in sites if site.silent)
    get_run_logger().info("%d sites, silent: %s", len(sites), ", ".join(silent) or "none")
    return {"sites": len(sites), "silent": silent, "events": [event.name for event in events]}


def _payload(event: WatchEvent) -> dict[str, object]:
    return {**event.payload, **({"site": event.site} if event.site else {})}


def _show(federation: str, sites: list[SiteState]) -> None:
    """Show a table of the sites, only after a change: one table per minute would fill Prefect's database."""
    create_table_artifact(
        key=f"{federation}-site-watch",
        table=[
            {
                "site": site.site,
                "says": site.state,
                "last heard of": _utc(site.heard),
                "silent": site.silent,
                "new data waiting": site.waiting,
            }
            for site in sites
        ],
        description=f"{federation}: the sites at the last change",
    )


def _utc(at: float | None) -> str:
    return "never" if at is None else f"{time.strftime('%Y-%m-%d %H:%M:%S', time.gmtime(at))}Z"
