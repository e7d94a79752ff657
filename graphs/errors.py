"""The errors that a user meets: one line that says what, where, and what to do."""


class OpdiffError(Exception):
    """The base of every error that opdiff raises on purpose; the commands print it and exit with 2."""


class InputError(OpdiffError):
    """A file, an option or a value from outside that cannot be used as it is."""


class ShapeError(OpdiffError):
    """Two shapes, or a shape and its axes, that cannot be brought together."""


class Interrupted(OpdiffError):
    """The user stopped a command; the text says how far it came."""
