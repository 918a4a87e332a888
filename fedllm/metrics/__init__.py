"""What Prometheus can ask: the coordinator's journal, and a site's own memory and ledger."""
