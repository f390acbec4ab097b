"""`refold bench`: what the system does on this machine, beside what the machine could do. Used by the command alone.

A measurement is a module: `run` starts a system of its own, repeats its rounds and returns a `Report`. Whatever
is measured runs in processes of its own (`processes`), the ground of it in the same round (`ground`).
"""
