"""Errors that a user can act on: one line that names the thing, the value and the remedy."""


class SalientError(Exception):
    """Root of every error that Salient raises for a user's mistake or a damaged input."""


class StoreError(SalientError):
    """The activation store cannot do what was asked; the message says why and what to do."""


class DamagedShardError(StoreError):
    """Stored bytes are missing, cut short or differ from their checksums."""


class ChangedTextError(StoreError):
    """A known sample id arrives with another text."""
