"""A frozen transformer, its FFN activations, pooled over each text's real tokens.

In: texts and a model folder or hub name. Out: for a batch of texts the pooled activations of each
layer, and the pooled hidden states.

Read first: `transformer` (:class:`Backbone`, one forward pass) and `sites` (where each family keeps
its activations); `loading` makes a backbone. `tokens`, `packing` and `attention` put many texts
into one batch; `hooks` and `slicing` capture, and cut off what nobody reads; `pooling` and `fused`
pool; `engine` is the faster arithmetic, `selfcheck` proves it equal.

Tables that take a new row: `sites.FFN_SITES` (a family), `pooling.POOLINGS` (a pooling).
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
