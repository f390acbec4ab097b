"""Prove a projection (`verify`) and make it again (`rebuild`). Composed by `refold.wiring.audit`."""
