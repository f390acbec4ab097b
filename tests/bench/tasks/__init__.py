"""Coroutine functions that `bench.worker` runs in a process of their own.

They import little, because imports delay a measurement. Tasks of the baseline are in `bench.ground`.
"""
