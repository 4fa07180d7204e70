"""The converters, one file a family of operators."""
