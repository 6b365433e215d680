"""Dumps and tables in; normalised texts, splits and targets out.

In: files of labelled texts (CSV, TSV, JSONL, Parquet, Arrow, layouts of published sets, a hub data
set) and tweet dumps (v1.1 and v2, in any framing and packing). Out: a :class:`Corpus` of samples
and labels for training, blocks of rows for scoring, per task the :class:`Target` that a store's
labels make, and a :class:`Lexicon`, whose features are the words and characters of texts.

Read first: `corpus` (training), `inputs` and its `choosing` of columns (scoring). A dump
tar, zip), `framing` (JSON values), `records` (the tweets in a value, with their full texts) and
`dumps` (rows, and the quarantine); a table through `containers`, `charsets` (encodings), a reader
of `formats` (they share `blocks`, and are `delimited`, `jsonrows`, `columnar`, `published`) and
`rows`; `sources` finds a set's files, `labels` reads its labels. `duplicates` says which texts are
nearly the same, `given` takes what a caller has in Python, `memory` makes a corpus of it;
`firstlook` guesses a file's columns and tasks, for a configuration to begin with.

Tables that take a new row: `normalise.NORMALISERS`, `records.READERS` (kinds of tweets and pages),
`formats.FORMATS` (files of rows), `choosing.ROW_FORMATS` (those that `salient score` reads),
`framing.FRAMINGS`, `containers.CODECS`.
"""

from pipeline.errors import door

__getattr__, __dir__, __all__ = door(__name__, __file__)
