"""``python -m tests.concurrency FILE``: checks a kept history again. Exit code 1 if no order explains it."""

from __future__ import annotations

import sys
from pathlib import Path

from tests.concurrency.checking import check_file, summary
from tests.concurrency.history import load


def main(arguments: list[str]) -> int:
    if len(arguments) != 1:
        print(__doc__, file=sys.stderr)
        return 2
    path = Path(arguments[0])
    print(summary(load(path)[0]))
    wrong = check_file(path)
    print(wrong or "linearizable")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
