"""The machine's end of the wire: dialling, staying attached, sending output. It decides nothing."""
