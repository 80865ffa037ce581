"""The dashboard, `healctl tui`: a client like any other, which may be slow, stopped or gone and harms nobody."""
