"""Prometheus metrics of the coordinator's journal, and of a site's own memory and ledger."""
