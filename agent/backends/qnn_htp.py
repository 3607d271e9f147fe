"""Static graphs on a Qualcomm HTP through ONNX Runtime's QNN plugin (PyPI ``onnxruntime-qnn``, extra
``htp``).

On x86-64 the plugin's library emulates the HTP: it computes what the chip would, some thousand times slower,
and its cycle counts are estimates. A graph runs there as a whole or not at all: falling back to the processor
is switched off in ONNX Runtime and in its Python layer.
"""

from __future__ import annotations

import csv
import json
import os
import platform
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import onnxruntime
from numpy.typing import NDArray

from mobifarm.agent.backends.cpu import first_line, run_session
from mobifarm.agent.backends.interface import Arrays, BackendError, Placement
from mobifarm.agent.backends.snapdragon import Chip

_PROVIDER = "QNNExecutionProvider"
_EMULATED = ("x86_64", "AMD64")


@dataclass(frozen=True, slots=True)
class _Traced:
    """What the first run of a graph told: operators on the HTP and elsewhere, and cycles."""

    on_accelerator: int
    elsewhere: int
    cycles: int | None


class QnnHtpBackend:
    """A Backend on the HTP of ``chip``.

    Args:
        folder: for profiles; empty.

    Raises:
        BackendError: the plugin is not installed or finds no HTP.
    """

    restarts = 0

    def __init__(self, chip: Chip, folder: Path) -> None:
        self._chip = chip
        self._library, self._device = _plugin()
        self.accelerator = "htp_emulator" if platform.machine() in _EMULATED else "htp_hardware"
        self._sessions: dict[str, onnxruntime.InferenceSession] = {}
        self._traced: dict[str, _Traced] = {}
        self._folder = folder
        self._profiles: dict[str, Path] = {}  # by graph; a name of a graph is no name of a file
        self._loaded = 0

    def load(self, graph: str, model: bytes) -> None:
        """See Backend. ``model`` is an ONNX graph or one that was compiled for the chip."""
        self._traced.pop(graph, None)
        self._loaded += 1
        profile = self._folder / f"{self._loaded}.csv"
        options = _options(self._device, self._library, self._chip, profile)
        options.enable_profiling = True
        options.profile_file_prefix = f"{profile}-trace"
        try:
            with _quiet_output():
                self._sessions[graph] = onnxruntime.InferenceSession(
                    model, sess_options=options, enable_fallback=False
                )
        except Exception as error:  # ONNX Runtime's errors have no common base of their own
            raise BackendError(
                f"the HTP of {self._chip.model} does not take the graph {graph}: {first_line(error)}"
            ) from error
        self._profiles[graph] = profile

    def run(self, graph: str, feeds: Arrays) -> dict[str, NDArray[Any]]:
        """See Backend."""
        found = run_session(self._sessions, graph, feeds)
        if graph not in self._traced:
            trace = Path(self._sessions[graph].end_profiling())
            profile = self._profiles[graph]
            cycles = _cycles(profile)
            kernels = [event for event in json.loads(trace.read_bytes()) if _provider(event)]
            trace.unlink()
            _discard(profile)
            elsewhere = sum(_provider(event) != _PROVIDER for event in kernels)
            total = cycles.pop("", None)
            self._traced[graph] = _Traced(len(cycles), elsewhere, total)
        return found

    def placement(self) -> Placement:
        """See Backend."""
        traced = list(self._traced.values())
        there = sum(t.on_accelerator for t in traced)
        known = [t.cycles for t in traced if t.cycles is not None]
        return Placement(
            operators=there + sum(t.elsewhere for t in traced),
            on_accelerator=there,
            estimated_cycles=sum(known) if known else None,
            proof="the HTP's profile and ONNX Runtime's trace of the first run of each graph",
        )

    def close(self) -> None:
        """See Backend."""
        self._sessions.clear()
        self._traced.clear()
        self._profiles.clear()


def compile_for(chip: Chip, model: bytes, place: Path) -> None:
    """Compile a graph ahead of time: an ONNX file at ``place`` that holds the HTP's own binary.

    Raises:
        BackendError: the plugin is not installed, or the HTP does not take the graph.
    """
    library, device = _plugin()
    options = _options(device, library, chip, None)
    for name, value in (("enable", "1"), ("embed_mode", "1"), ("file_path", str(place))):
        options.add_session_config_entry(f"ep.context_{name}", value)
    try:
        with _quiet_output():
            onnxruntime.InferenceSession(model, sess_options=options, enable_fallback=False)
    except Exception as error:
        raise BackendError(f"cannot be compiled for {chip.model}: {first_line(error)}") from error


def _plugin() -> tuple[str, Any]:
    """The HTP's library and ONNX Runtime's device for it."""
    try:
        import onnxruntime_qnn
    except ImportError as error:
        raise BackendError(
            "the QNN plugin of ONNX Runtime is not installed: pip install 'mobifarm[htp]'"
        ) from error
    onnxruntime.set_default_logger_severity(4)
    if not (devices := _devices()):
        try:
            onnxruntime.register_execution_provider_library(_PROVIDER, onnxruntime_qnn.get_library_path())
        except Exception as error:
            raise BackendError(f"the QNN plugin cannot be loaded: {first_line(error)}") from error
        devices = _devices()
    if not devices:
        raise BackendError("the QNN plugin finds no HTP here")
    return str(onnxruntime_qnn.get_qnn_htp_path()), devices[0]


@contextmanager
def _quiet_output() -> Iterator[None]:
    """Send what native code writes to stdout to stderr: the emulator greets there, amid our JSON."""
    sys.stdout.flush()
    kept = os.dup(1)
    try:
        os.dup2(2, 1)
        yield
    finally:
        os.dup2(kept, 1)
        os.close(kept)


def _devices() -> list[Any]:
    return [device for device in onnxruntime.get_ep_devices() if device.ep_name == _PROVIDER]


def _options(device: Any, library: str, chip: Chip, profile: Path | None) -> onnxruntime.SessionOptions:
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    options.add_session_config_entry("session.disable_cpu_ep_fallback", "1")
    settings = {"backend_path": library, "soc_model": str(chip.soc_id)}
    if profile is not None:
        settings |= {"profiling_level": "detailed", "profiling_file_path": str(profile)}
    options.add_provider_for_devices([device], settings)
    return options


def _provider(event: dict[str, Any]) -> str:
    if not str(event.get("name", "")).endswith("_kernel_time"):
        return ""
    return str(event.get("args", {}).get("provider", ""))


def _cycles(profile: Path) -> dict[str, int]:
    """Cycles by operator of the graph as the HTP ran it, and under "" those of the whole run."""
    found: dict[str, int] = {}
    for kind, name, value in _rows(profile):
        if kind == "NODE":
            found[name] = value
        elif name.startswith("Accelerator (execute) time (cycles)"):
            found[""] = value
    return found


def _rows(profile: Path) -> Iterator[tuple[str, str, int]]:
    """Kind, name and cycles of every line of a profile that counts cycles."""
    if not profile.is_file():
        return
    with profile.open(encoding="utf-8", errors="replace", newline="") as stream:
        for row in csv.DictReader(stream):
            if row.get("Unit of Measurement") == "CYCLES" and (row.get("Time") or "").isdigit():
                yield row["Message"], row["Event Identifier"], int(row["Time"])


def _discard(profile: Path) -> None:
    """The plugin writes on after every run; what was read needs no more room."""
    for file in (profile, profile.with_name(f"{profile.stem}_qnn.log")):
        file.unlink(missing_ok=True)
        file.symlink_to(os.devnull)


@contextmanager
def opened(chip: Chip) -> Iterator[QnnHtpBackend]:
    """A backend that is closed at the end."""
    with tempfile.TemporaryDirectory(prefix="mobifarm-htp-") as folder:
        backend = QnnHtpBackend(chip, Path(folder))
        try:
            yield backend
        finally:
            backend.close()
