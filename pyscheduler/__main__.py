"""``python -m pyscheduler``."""

from __future__ import annotations

from pyscheduler.cli import main

if __name__ == "__main__":
    main()
