"""Reports: one model, shown as text, as JSON or as an HTML page."""
