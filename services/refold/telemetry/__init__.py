"""Logging and metrics of the services, and the redaction of secrets.

For everyone above the core; it imports nothing of the services.
"""
