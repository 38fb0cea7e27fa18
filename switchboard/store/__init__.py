"""EDGE: Redis or Valkey. Nothing outside knows that there is one."""
