"""A phone's sensors at work: CPU time in, files out."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from mobifarm.simulator.profile import Profile
from mobifarm.simulator.sensors.model import Load, Reading, initial_state, step
from mobifarm.simulator.sensors.nodes import live_nodes, static_nodes
from mobifarm.simulator.sensors.services import service_outputs
from mobifarm.simulator.sensors.tree import FileTree

# The shortest step; a phone shows values from its first moment on.
_FIRST_STEP_S = 1e-3


class SensorBoard:
    """Keeps a phone's sensor files. Times are of CLOCK_BOOTTIME, in seconds, and given by the caller.

    ``machine_cores``: processors of the computer that the phone may use.
    """

    def __init__(
        self, profile: Profile, sys: Path, services: Path, now_s: float, *, machine_cores: int
    ) -> None:
        self._profile = profile
        self._machine_cores = machine_cores
        self._nodes = FileTree(sys, profile.unreadable)
        self._services = FileTree(services)
        self._cpu_s = 0.0
        self._started_s = now_s
        self._updated_s = now_s - _FIRST_STEP_S
        self._load = Load(0.0, plugged=True, powered=False)
        self.reading: Reading = step(
            profile, self._machine_cores, initial_state(profile), self._load, _FIRST_STEP_S
        )

    def create(self) -> None:
        """Write all files anew, for a phone that is switched on."""
        for tree in (self._nodes, self._services):
            tree.clear()
        self._nodes.create_unreadable()
        self._nodes.write(static_nodes(self._profile, self._machine_cores))
        self._cpu_s = 0.0
        self._write()

    def update(self, now_s: float, cpu_s: float, *, plugged: bool, powered: bool) -> None:
        """Advance to ``now_s``, when the phone's processes had used ``cpu_s`` seconds of CPU time in all."""
        duration_s = now_s - self._updated_s
        if duration_s < _FIRST_STEP_S:
            return
        # A process that nobody waited for takes its time with it, so the sum may fall.
        busy_cores = max(cpu_s - self._cpu_s, 0.0) / duration_s
        self._load = Load(busy_cores, plugged, powered)
        self.reading = step(self._profile, self._machine_cores, self.reading.state, self._load, duration_s)
        self._updated_s, self._cpu_s = now_s, cpu_s
        if powered:
            self._write()

    def set_temperature(self, celsius: float) -> None:
        """From now on die and body go on from here."""
        state = replace(self.reading.state, die_celsius=celsius, body_celsius=celsius)
        self.reading = replace(self.reading, state=state)

    def summary(self) -> dict[str, float]:
        """Modelled values for people."""
        return {
            "power_watts": round(self.reading.system_watts, 3),
            "die_celsius": round(self.reading.state.die_celsius, 2),
            "body_celsius": round(self.reading.state.body_celsius, 2),
            "battery_share": round(self.reading.battery_share, 4),
            "busy_cores": round(self._load.busy_cores, 3),
        }

    def _write(self) -> None:
        plugged = self._load.plugged
        self._nodes.write(
            live_nodes(
                self._profile,
                self.reading,
                uptime_ms=round(self._updated_s * 1000),
                running_ms=round((self._updated_s - self._started_s) * 1000),
                plugged=plugged,
            )
        )
        self._services.write(service_outputs(self._profile, self.reading, plugged=plugged))
