"""Bytes: the wire format, mapped files, streams, files replaced as a whole."""
