"""One module a data layer type: what it reads, batch by batch."""
