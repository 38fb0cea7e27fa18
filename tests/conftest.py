"""Fixtures that every test may ask for; they live in tests/helpers."""

pytest_plugins = ["helpers.valkey"]
