"""Files of one dialect into another."""
