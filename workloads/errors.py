"""The error for what a user can mend: a wrong name, file or option. Commands print it, exit code 2."""

from __future__ import annotations


class WorkloadInputError(Exception):
    """Something given by the user cannot be used; the message is one sentence that says how to mend it."""
