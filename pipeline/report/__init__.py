"""Tables, figures and the page that show what a run found.

In: a run's folder. Out: tables on the terminal, figures as PNG and SVG, one HTML page; the run's
numbers as xarray and pandas.

Read first: `facts` (what is shown, read from the run) and `page`; `terminal` prints, `figures` and
`charts` draw (they need the extra `report`), `inspection` describes any file of Salient,
`labelnoise` lists the labels that look wrong, `results` opens a run for a notebook; `palette` has
the colours of this page and of the explorer's, `voices` what a neuron says in both, `sheets` the
CSV of both.
"""

from pipeline.errors import door

__getattr__, __dir__, __all__ = door(__name__, __file__)
