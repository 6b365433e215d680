"""A frozen transformer, its FFN activations, pooled over each text's real tokens.

In: texts and a model folder or hub name. Out: for a batch of texts the pooled activations of each
layer, and the pooled hidden states.

Read first: `transformer` (:class:`Backbone`, one forward pass) and `sites` (where each family keeps
its activations; `discovery` finds them in others); `loading` makes a backbone of what `folder`,
`tokenizer`, `fingerprint` and `checkpoint` find on disk, `parts` of the part that reads text;
`refusals` says what a hub's library raises.
`tokens`, `packing` and `attention` put many texts into one batch; `hooks` and `slicing` capture,
and cut off what nobody reads; `pooling` and `fused` pool; `experts` finds and captures what
mixtures of experts choose; `engine` is the faster arithmetic. `selfcheck` proves that a batch gives
what each text alone does, by what `shapes`, `limits` and `states` find out about a model; `plain`
is the model's own forward pass, to compare with; `comparison` says what is rounding, `usercache`
remembers what was proved.

Tables that take a new row: `sites.FFN_SITES` (a family), `pooling.POOLINGS` (a pooling).
"""

from pipeline.errors import door

__getattr__, __dir__, __all__ = door(__name__, __file__)
