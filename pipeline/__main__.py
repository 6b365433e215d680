"""``python -m pipeline`` is ``salient``."""

from pipeline.line import main

if __name__ == "__main__":
    main()
