"""What every run of this machine works with, in one hand."""

from dataclasses import dataclass

from daemon.clock import Clock
from daemon.journal import Journal
from daemon.output import Outputs
from daemon.process import Processes
from daemon.questions import Questions
from daemon.reports import Reports
from daemon.safety import SafetyStore
from daemon.settings import Settings
from daemon.stopping import Stops


@dataclass(frozen=True, slots=True)
class Tools:
    journal: Journal
    processes: Processes
    outputs: Outputs
    questions: Questions
    stops: Stops
    clock: Clock
    safety: SafetyStore
    settings: Settings
    reports: Reports
