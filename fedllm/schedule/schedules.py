"""Every schedule by the name that `rounds.mode` gives it."""

from fedllm.schedule.schedule import Schedule
from fedllm.schedule.sync import Sync

SCHEDULES: dict[str, Schedule] = {Sync.name: Sync()}
