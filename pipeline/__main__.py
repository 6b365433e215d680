"""``python -m pipeline`` is ``salient``."""

from pipeline.cli import main

if __name__ == "__main__":
    main()
