"""The forward-only knowledge editor. Importing it is light: ONNX Runtime comes with ``bundle``.

``edit`` does one edit on a :class:`~mobifarm.agent.editor.bundle.Bundle`; ``validate_settings`` completes and
checks a method's settings without a model.
"""

from mobifarm.agent.editor.edit import check_edit, edit
from mobifarm.agent.editor.methods import METHOD_NAMES, validate_settings
from mobifarm.agent.editor.settings import canonical_json, settings_hash
from mobifarm.agent.editor.types import (
    AnswerScore,
    EditCost,
    EditOutcome,
    EditPhase,
    EditProgress,
    EditRecord,
    EditStatus,
    Probe,
    ProbeKind,
    ProbeScore,
)

__all__ = [
    "METHOD_NAMES",
    "AnswerScore",
    "EditCost",
    "EditOutcome",
    "EditPhase",
    "EditProgress",
    "EditRecord",
    "EditStatus",
    "Probe",
    "ProbeKind",
    "ProbeScore",
    "canonical_json",
    "check_edit",
    "edit",
    "settings_hash",
    "validate_settings",
]
