"""A simulated Azure: a fleet whose upgrades go well and badly, and a server that tells of it as Azure does.

It imports nothing of the exporter but the spelling of resource ids: a fake that shared the parser's misreadings
would prove nothing.
"""
