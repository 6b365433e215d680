"""A local web page that searches the neurons of a store.

In: a store, and a finished run on it for ranks and decisions. Out: a page on this machine only.

Read first: `atlas` (what is known of a neuron) and `server`; `widgets` and `fragments` draw the
page, `tokenmaps` finds the tokens on which a neuron fires, `visitors` says who may ask. All but
`atlas` need the extra `explore`.
"""

from pipeline.errors import door

__getattr__, __dir__, __all__ = door(__name__, __file__)
