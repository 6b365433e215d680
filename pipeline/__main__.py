"""``python -m pipeline`` is ``salient``."""

from pipeline.commands import main

if __name__ == "__main__":
    main()
