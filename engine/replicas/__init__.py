"""Engines in processes of their own: the wire, the worker, its other end, and which of several gets a request."""
