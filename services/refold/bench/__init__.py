"""The measurements behind `refold bench`, of a running or a temporary system.

`tests/bench/` in the repository measures more: rebuild, memory, growth, and what the hardware and the servers do alone.
"""
