"""One file per runtime: its conversion, loading and greedy generation, behind protocol.py.

Each is run as `python -m adapters.NAME` in an environment of its own.
"""
