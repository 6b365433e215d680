"""Salient: learn from the FFN activations inside frozen language models.

The wings in the data's order. Each one's page says what goes in, what comes out and which of its
modules to read first:

- `pipeline.texts`: dumps and tables to texts, splits and targets.
- `pipeline.backbone`: a frozen transformer, its activations, pooled.
- `pipeline.extraction`: texts and a backbone to rows of the `store`.
- `pipeline.linear`, `pipeline.measures`: the numerics below probes and heads.
- `pipeline.probes`: Phase 1, a probe per layer and each neuron's importance.
- `pipeline.heads`: Phase 2, small cross-layer heads on the salient neurons.
- `pipeline.neurons`: which neurons, how sure, and what if they are silent.
- `pipeline.scoring`: dumps to Parquet, each text once.
- `pipeline.planning`: which depth, which heads, which thresholds.
- `pipeline.report`, `pipeline.explorer`: what people look at.
- `pipeline.sharing`: heads to a hub of models and back.
- `pipeline.cluster`, `pipeline.submission`: where work runs, and jobs that outlive the shell.
- `pipeline.commands`, `pipeline.config`: the command line and the configuration.

Every command of `salient` is one function; a configuration goes in, plain results come out:

- `salient run` and its stages: `pipeline.stages.run`, `pipeline.stages.extract`,
  `pipeline.stages.probe`, `pipeline.stages.consolidate`; beside them `pipeline.neurons.rank` and
  `pipeline.neurons.ablate`.
- `salient plan` and `score`: `pipeline.planning.make_plan`, `pipeline.scoring.score_files`.
- `salient report`, `explore` and `inspect`: `pipeline.report.write_report`,
  `pipeline.explorer.serve`, `pipeline.report.inspect`.
- `salient push` and `pull`: `pipeline.sharing.push`, `pipeline.sharing.pull`.
- `salient submit` and `status`: `pipeline.submission.submit`, `pipeline.submission.describe`.

What the configuration file may hold: `pipeline.config.RunConfig`, with a class for each section.

From Python, for lists and frames, `import salient`: `pipeline.extraction.encode`,
`pipeline.extraction.encode_stream`, `pipeline.scoring.load_scorer`.

Pieces to build on:

- `pipeline.backbone.load_backbone` and `pipeline.extraction.Extractor`: texts to pooled
  activations.
- `store.ActivationStore` and `store.StoreSchema`: where they are kept.
- `pipeline.texts.load_corpus` and `pipeline.texts.read_blocks`: labelled sets, dumps of tweets.
- `pipeline.probes.Probe` and `pipeline.probes.load_probe`: the single-layer networks.
- `pipeline.heads.Head` and `pipeline.scoring.Scorer`: salient activations to predictions.
- `pipeline.explorer.Atlas`: what one neuron does over a store.

Tables that take a new row: `pipeline.backbone.FFN_SITES` (families), `pipeline.backbone.POOLINGS`,
`pipeline.texts.FORMATS` (files of labelled texts), `pipeline.texts.READERS` (files to score),
`pipeline.measures.METRICS`, `pipeline.neurons.RANKINGS`, `pipeline.heads.RULES` (salient sets),
`pipeline.cluster.KINDS`.
"""

import os
import warnings

# OpenMP threads that spin while they wait collapse as soon as anything else uses the cores; must be
# set before torch is first imported.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
# Progress bars of libraries do without Jupyter's widgets, and need not say so in every notebook.
warnings.filterwarnings("ignore", message="IProgress not found")
