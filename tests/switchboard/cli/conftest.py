"""One server for the commands of a module."""

from helpers.served import served

__all__ = ["served"]
