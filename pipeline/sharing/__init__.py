"""Head folders to a hub of models and back.

In: a run's head folder, or `hub:user/name@revision`. Out: a model repository, or a head folder.

Read first: `hub`.
"""

from pipeline.errors import door

__getattr__, __dir__, __all__ = door(__name__, __file__)
