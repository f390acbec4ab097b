"""Refold: shared JSON documents as the fold of an immutable log."""

__version__ = "0.1.0"
