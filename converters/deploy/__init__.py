"""Deploy nets out of training nets."""
