"""EDGE: people. REST, live events, sign-in, the page."""
