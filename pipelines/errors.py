"""The three errors that a user may see; every message is one sentence that says what to do.

Anything else that is raised is a bug and reaches the log with its traceback, not the page.
"""


class UserError(Exception):
    """Say what the user can correct: the value, what is allowed, what to do."""


class CompositionError(UserError):
    """Say which two techniques cannot run together, or which sampler a technique cannot use."""


class BackendUnavailable(UserError):
    """Say why a model cannot be loaded here: no weights, no network, no such device."""
