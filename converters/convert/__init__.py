"""One file into another: what can become what, and how."""
