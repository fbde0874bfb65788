"""Servers as processes, and the load that is put on them over HTTP."""
