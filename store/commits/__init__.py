"""From an append to a commit: what is on disk at every moment, and what a crash leaves.

    plan    = plan_append(…)               planned
    write_block(plan, block, …)            written, staged: each block by itself
    commit()                               published, as far as blocks follow on without a gap

A block of samples goes through these states:

    planned -> written -> staged -> published
                                 -> abandoned, from any state before

planned
    `.salient/plans/<plan>/` holds `plan.json` and `samples.arrow`, `aliases.arrow` and
    `replaced.arrow`; `.salient/active.json`, which is written last, names the plan. One plan is
    active at a time, that of the process with `append.lock`; others write its blocks.
    A crash before the last file leaves a folder that nobody names: `gc` removes it.

written
    `<plan>/<slot>-<attempt>/<array>.<layer>`, one durable file for each shard. Whoever writes a
    block makes an attempt of its own, so two at the same block never mix.
    A crash leaves an attempt that no manifest names: it goes when the block is published.

staged
    `<plan>/block-<slot>.safetensors`, the block's manifest, appears by one rename. It holds the
    checksums, the moments and the name of the attempt that counts.
    A crash loses nothing: whoever asks for the same samples again gets the same plan and writes
    the blocks that are not staged.

published
    Under `commit.lock`: the shards are renamed to `<array>/c/<layer's number>/0/0/<slot>`, the
    manifests to `.salient/manifests/<slot>-<count>-<plan>.safetensors`; the index part
    `.salient/index/rows-<start>-<stop>-<plan>.parquet` and the chunks of the coordinates are
    written, then the snapshot's record; at last `zarr.json` at the root is replaced, and that one
    rename is the commit. The arrays' own `zarr.json` follow, and the plan's folder goes.
    A crash before that rename leaves readers what they had: they look no further than the
    snapshot, and a shard that has replaced a shorter one begins with the same samples. The next
    commit, plan or compaction repeats the moves. After it, the snapshot says that the plan is
    finished, and they tidy up.

    What was deleted since the plan was made stays deleted: see below, and `due` for aliases and
    replaced texts. Coordinates that readers saw before and that change with the commit are noted
    before it and written after it (`settling`).

abandoned
    Whoever plans something else publishes what the active plan has staged without a gap, makes its
    own plan the active one, and removes the other's folder with all that is left in it. Writers of
    the old plan are told so.
    A crash in between leaves that folder: `gc` removes it.

Layers that are added to samples stored before (`plan_backfill`) go the same way, with two
differences: the blocks are the slots there are, and they are published all together or not at all.

Nothing in a plan's folder is seen by readers, so a dead or abandoned plan harms nobody.

A delete reaches the active plan: after the tombstones are committed it rewrites the plan's tables.
A row that was to come loses id and text and its position is dead, or it goes on under the next id
of the same append with that text; its writers go on. The plan is no longer resumed by asking for
the same samples, for whoever asks after the delete means those anew. Dead plans, and files of the
index that no commit names, are removed at once, as they hold texts.

Every change of several steps can die at any of them and be asked for again:

    create          made beside its place, renamed
    plan            the files, `active.json` last
    write a block   an attempt of its own, its manifest last
    commit          moves that are repeated, `zarr.json` last; then coordinates, by a note
    add layers      the same; layers that are there already are not added again
    delete          note, tombstones, commit, coordinates, plan; again finds what is left
    put labels      the table, then the commit
    compact         shards by manifests that accept both; then aliases, rows, tombstones, in an
                    order that shows the same living ids at every moment; the commit; files
    gc              records of snapshots before what they name
    export          made beside its place, renamed

`tests/kills/test_store.py` kills each at its fsyncs, renames and removals.

On a bucket nothing is renamed or locked, and nothing that a snapshot names is written again:

    planned     a commit whose record holds the plan; its tables are objects beside it
    written     shards `<array>/c/<layer's number>/0/0/<slot>.<plan>-<attempt>`, at their place
    staged      the manifest `.salient/manifests/<slot>-<count>-<plan>-<attempt>.safetensors`
    published   the record `.salient/snapshots/<number>.json`, which only one writer can create
    abandoned   a commit with another plan, or none

Who commits reads the newest record, writes what the next one names under names of its own, and
creates that; if its number is taken, another was first, and all is done again upon that one. So
deleting takes the tombstones and the plan's new tables in one commit, and whoever was about to
publish what is deleted loses. A block's shards belong to their attempt: of several attempts at it
any may be named. What nobody names is told by names: tables hold the snapshot that they were made
upon, shards and manifests their plan. `turns` says who carries out the plan, which nothing that is
committed depends on.

    create          one record, after a look whether the server holds to conditions
    plan            tables, lease, the record
    write a block   shards, then its manifest
    commit          tables, the record; then the plan's tables go
    delete          tombstones and tables of the plan, the record; then the tables before go
    put labels      the table, then the record

`tests/store/test_buckets.py` kills each at its requests, and lets others go first there.

Read first: `planning` and `publishing` (what holds everywhere), `protocol` (what differs), then
`plans` and `ondisk`, or `bucketplans` and `onbucket`; `writing` is of one block, `backfill` adds
layers, `deletion` hides samples; `due`, `settling` and `leftovers` are about what others did or
left meanwhile.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
