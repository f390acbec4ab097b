"""HTTP for those without NATS: writes by group commit with their outcomes, reads of any version.

`refold.gateway.app.create_app` makes the ASGI application from `refold.gateway.parts.Parts`; wiring does that.
"""
