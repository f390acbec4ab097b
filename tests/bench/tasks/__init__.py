"""What runs in a process of its own while it is measured: coroutine functions for `bench.worker`.

They import little: each of them is waited for. The ground's own tasks are in `bench.ground`.
"""
