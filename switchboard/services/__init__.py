"""What may be done: one use case per method (load, decide, save, announce)."""
