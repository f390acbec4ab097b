"""The baseline: what this machine, its disk and the servers alone can do with the same work.

Measured in the same rounds as the figures that it bounds.
"""
