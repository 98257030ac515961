"""One file a runtime: its conversion, its loading and its greedy generation, behind protocol.py.

Each is run as `python -m adapters.NAME` in an environment of its own.
"""
