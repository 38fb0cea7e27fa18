"""EDGE: the outside world is told that something waits. Notifications carry no power."""
