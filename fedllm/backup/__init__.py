"""Backup and restore: docs/backup.md says how, docs/decisions/0014-backup-order.md why in this order."""
