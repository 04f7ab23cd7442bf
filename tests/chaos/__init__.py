"""Chaos: the whole daemon behind a proxy that does to it whatever networks, gateways and Azure have ever done."""
