"""Shares of classes among scored texts, corrected for the errors of the head that decided them.

In: a folder of scores, and what its card says of the heads' errors, held out. Out: a table of
shares by day, week, month or any column, plain and corrected, each with its interval, and what
speaks against them.

Read first: `shares` (a folder's table from start to end). `grouped` reads the folder once, in
bounded memory; `errors` finds what is known of the heads; `assumed` asks the drift reports whether
the assumption holds.
"""

from pipeline.errors import door

__getattr__, __dir__, __all__ = door(__name__, __file__)
