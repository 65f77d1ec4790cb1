"""Lesson 00: the profile card, a face on ``runtime.choose_profile``."""

from __future__ import annotations

from helpers import runtime
from helpers.widgets.base import Panel, table


def profile_card(machines: dict[str, runtime.Machine]) -> Panel:
    """Which profile a machine gets and why; a choice of machines by name, and of ``WORKSHOP_PROFILE`` (section 0.3)."""
    import ipywidgets

    def show(machine: str, override: str) -> str:
        env = {"WORKSHOP_PROFILE": override} if override != "not set" else {}
        profile = runtime.choose_profile(machines[machine], env=env)
        return table(
            [
                {"machine": "looks like", machine: str(machines[machine])},
                {"machine": "profile", machine: f"{profile.name}, because {profile.reason}"},
                {"machine": "model", machine: profile.model},
                {"machine": "numbers", machine: profile.dtype},
                {"machine": "adapter", machine: profile.adapter},
            ],
            "Profile card",
        )

    controls = {
        "machine": ipywidgets.Dropdown(options=list(machines), description="Machine:"),
        "override": ipywidgets.Dropdown(
            options=["not set", *runtime.PROFILES], description="WORKSHOP_PROFILE:"
        ),
    }
    return Panel("Which profile does a machine get?", controls, show)
