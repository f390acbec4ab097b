"""The physical ground: what this machine, its disk and the servers alone can do with the same work.

Measured by the measurements in the rounds of what stands on it.
"""
