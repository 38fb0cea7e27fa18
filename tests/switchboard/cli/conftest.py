"""One server for the commands of a module."""

from helpers.served import own, served

__all__ = ["own", "served"]
