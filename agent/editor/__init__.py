"""The forward-only knowledge editor. Importing it is light: ONNX Runtime comes with ``bundle``.

``edit`` does one edit on a :class:`~mobifarm.agent.editor.bundle.Bundle`, ``edit_several`` several;
``EditStack`` holds, undoes and exports edits; ``validate_settings`` completes and checks a method's settings
without a model.
"""

from mobifarm.agent.editor.edit import EditOrder, check_edit, edit, edit_several
from mobifarm.agent.editor.methods import METHOD_NAMES, validate_settings
from mobifarm.agent.editor.settings import canonical_json, settings_hash
from mobifarm.agent.editor.stack import EditStack, HeldEdit, import_edits
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
    "EditOrder",
    "EditOutcome",
    "EditPhase",
    "EditProgress",
    "EditRecord",
    "EditStack",
    "EditStatus",
    "HeldEdit",
    "Probe",
    "ProbeKind",
    "ProbeScore",
    "canonical_json",
    "check_edit",
    "edit",
    "edit_several",
    "import_edits",
    "settings_hash",
    "validate_settings",
]
