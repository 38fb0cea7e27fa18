"""EDGE: the daemons' end. Translate, delegate, decide nothing."""
