"""The wire's words for this machine's values, and back. A stranger's string never breaks a message: it is cut and mended here."""
