"""``python -m exporter`` is ``vmss-upgrade-exporter``."""

from exporter.cli import main

raise SystemExit(main())
