"""Examination of this machine and installation, for `turbopilot doctor`.

    machine = look(Places(), offline=True)     # facts; each probe has a time limit and cannot fail the others
    findings = judge(machine)                  # pure: what each fact means, and what to do

probes ─▶ Machine (facts) ─▶ judge ─▶ CheckResult (name, state, what was found, remedy)
"""

from turbopilot.app.doctor.check_result import CheckResult, is_well
from turbopilot.app.doctor.facts import Failed, Machine
from turbopilot.app.doctor.judge import judge, reinstallation
from turbopilot.app.doctor.probes import Places, look, probes

__all__ = [
    "CheckResult", "Failed", "Machine", "Places", "is_well", "judge", "look", "probes", "reinstallation",
]  # fmt: skip
