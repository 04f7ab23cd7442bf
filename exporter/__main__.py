"""``vmss-upgrade-exporter`` and ``python -m exporter``: signals first, then the command line."""

from exporter import signals

signals.take_over()  # before the imports of the command line, in whose time a signal would kill

from exporter.cli import main  # noqa: E402

if __name__ == "__main__":
    raise SystemExit(main())
