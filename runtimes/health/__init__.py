"""How a running camera shows that it is well: state, metrics, an HTTP address, systemd's watchdog.

None of it can stop an answer.
"""

__all__ = ["series", "server", "state", "systemd"]
