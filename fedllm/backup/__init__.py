"""Backup and restore; see docs/backup.md, and docs/decisions/0014-backup-order.md for the read order."""
