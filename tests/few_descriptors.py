"""The exporter as a process that may open few file descriptors: ``python -m tests.few_descriptors [flags]``."""

import sys
from resource import RLIMIT_NOFILE, setrlimit

from exporter.cli import main

DESCRIPTORS = 64

if __name__ == "__main__":
    setrlimit(RLIMIT_NOFILE, (DESCRIPTORS, DESCRIPTORS))
    sys.exit(main())
