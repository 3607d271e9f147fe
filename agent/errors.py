"""The agent's errors: the class says whose move it is.

AgentError
├── InputError      the request is wrong; the message says how to mend it   (INVALID_ARGUMENT)
├── BundleError     a model bundle is missing, damaged or of another version (NOT_FOUND / DATA_LOSS)
├── Busy            another attempt runs                                     (RESOURCE_EXHAUSTED)
├── DamagedEdits    the kept edits of a bundle cannot be read                 (DATA_LOSS)
├── Fenced          a newer lease has been seen                              (FAILED_PRECONDITION)
└── Cancelled       the attempt was cancelled
"""

from __future__ import annotations


class AgentError(Exception):
    """Base of all errors that the agent raises on purpose.

    ``base_proof``: of an error that ended an edit, base_hash and returned_to_base as in a FinishedEdit.
    """

    base_proof: tuple[str, bool] | None = None


class InputError(AgentError):
    """The request cannot be carried out as it is; the message names the field and the remedy."""


class BundleError(AgentError):
    """A model bundle is damaged or cannot be used by this version."""


class BundleNotFound(BundleError):
    """No model bundle with this hash is on the phone."""


class DamagedEdits(AgentError):
    """The file of the kept edits does not hold what was written; the message says how to go on."""


class Busy(AgentError):
    """The agent runs one attempt at a time."""


class Fenced(AgentError):
    """The request carries an older fencing token than one seen before."""


class Cancelled(AgentError):
    """The attempt was cancelled while it ran."""


class NotHeld(AgentError):
    """The agent holds no attempt with this id."""


class StillRunning(AgentError):
    """An attempt has no result yet."""


class Stopping(AgentError):
    """The agent ends and takes no more work."""


class InternalError(AgentError):
    """A fault of the agent itself; its log has the traceback."""
