"""Dumps and tables in; normalised texts, splits and targets out.

In: files of labelled texts (CSV, TSV, JSONL, Parquet, TweetEval, a hub data set) and tweet dumps
(v1.1 and v2, in any framing and packing). Out: a :class:`Corpus` of samples and labels for
training, blocks of rows for scoring, per task the :class:`Target` that a store's labels make, and
a :class:`Lexicon`, whose features are the words and characters of texts.

Read first: `corpus` (training) and `inputs` (scoring). A dump passes through `containers` (gz, zst,
tar), `framing` (JSON values), `records` (the tweets in a value, with their full texts) and `dumps`
(rows, and the quarantine); a table through `formats` and `rows`. `duplicates` says which texts are
nearly the same.

Tables that take a new row: `normalise.NORMALISERS`, `records.READERS` (kinds of tweets and pages),
`formats.FORMATS` (files of rows), `inputs.READERS` (what `salient score` reads),
`containers.CODECS`.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
