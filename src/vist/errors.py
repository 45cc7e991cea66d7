"""The errors that are meant for the person at the keyboard.

Every message is one sentence or two: what was wrong, the value received, what to do. The command line prints the
message alone and exits with status 1; a library caller catches `VistError` (a `ValueError`). Mistakes of ours are
asserts, never a `VistError`.
"""


class VistError(ValueError):
    """Bad input: something the user can mend."""


class RenderLossError(VistError):
    """The text cannot be drawn without loss and the caller asked to be told by an exception."""


class CheckpointError(VistError):
    """A model folder that is missing, truncated, of another architecture, or holds weights of the wrong shape."""
