"""Pipeline schedules as pass lists, and an event simulator that times them (docs/schedules.md)."""

from .pass_times import PassTimes
from .passes import Pass, PassKind, PipelineSchedule, Site
from .registry import SCHEDULES, build_schedule, schedule_name
from .simulate import Simulation, device_order, simulate

__all__ = [
    "SCHEDULES",
    "Pass",
    "PassKind",
    "PassTimes",
    "PipelineSchedule",
    "Simulation",
    "Site",
    "build_schedule",
    "device_order",
    "schedule_name",
    "simulate",
]
