"""Tables, figures and the page that show what a run found.

In: a run's folder. Out: tables on the terminal, figures as PNG and SVG, one HTML page.

Read first: `facts` (what is shown, read from the run) and `page`; `terminal` prints, `figures` and
`charts` draw (they need the extra `report`), `inspection` describes any file of Salient.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
