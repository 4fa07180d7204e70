"""File formats in and out, and what compares them: one module a format."""
