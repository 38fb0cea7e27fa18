"""The server: one place to see every run, stop what must stop, and decide what agents ask."""
