"""The run configuration: one TOML file, validated before the first byte is written.

``RunConfig.load("run.toml")`` reads, resolves relative paths against the file's folder and
validates. Everything that affects results is in here and in ``RunConfig.fingerprint``; run-time
matters (device, workers, progress) are in ``[cluster]`` or flags, and are left out of it.

In: a TOML file or a mapping. Out: a validated :class:`RunConfig`, or one line that names the key,
the value and the remedy.

Read first: `sections` (every key, with its meaning) and `whole`; `problems` words the errors,
`keys` tells of every key, `page` writes that down, and `writing` has values as TOML.
`records` checks the types of what a run wrote for itself, `results` says what they are.
"""

from pipeline.errors import door

__getattr__, __dir__, __all__ = door(__name__, __file__)
