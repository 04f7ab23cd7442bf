"""Prometheus exporter for the OS upgrades of Azure virtual machine scale sets."""

__version__ = "0.1.0"
