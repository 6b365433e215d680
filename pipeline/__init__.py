"""Salient: learn from the FFN activations inside frozen language models.

Every command of `salient` is one function; a configuration goes in, plain results come out:

- `salient run` and its stages: `pipeline.jobs.run`, `pipeline.jobs.extract`, `pipeline.jobs.probe`,
  `pipeline.jobs.consolidate`; beside them `pipeline.ranktables.rank`, `pipeline.ablation.ablate`.
- `salient score`: `pipeline.scoring.score_files`.
- `salient report`, `explore` and `inspect`: `pipeline.htmlreport.write_report`,
  `pipeline.explorer.serve`, `pipeline.inspection.inspect`.
- `salient submit` and `status`: `pipeline.submit.submit`, `pipeline.submit.status_of`.

What the configuration file may hold: `pipeline.config.RunConfig`, with a class for each section.

Pieces to build on:

- `pipeline.loading.load_backbone` and `pipeline.extractor.Extractor`: texts to pooled activations.
- `store.activations.ActivationStore` and `store.schema.StoreSchema`: where they are kept.
- `pipeline.corpus.load_corpus` and `pipeline.inputs.read_blocks`: labelled sets, dumps of tweets.
- `pipeline.probe.Probe` and `pipeline.phase1.load_probe`: the single-layer networks.
- `pipeline.heads.Head` and `pipeline.scorer.Scorer`: salient activations to predictions.
- `pipeline.neurons.Atlas`: what one neuron does over a store.

Tables that take a new row: `pipeline.sites.FFN_SITES`, `pipeline.pooling.POOLINGS`,
`pipeline.metrics.METRICS`, `pipeline.rankings.RANKINGS`, `pipeline.inputs.READERS`,
`pipeline.clusterkinds.KINDS`.
"""

import os

# OpenMP threads that spin while they wait collapse as soon as anything else uses the cores; must be
# set before torch is first imported.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
