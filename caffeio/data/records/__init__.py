"""What the records are: Datum, AnnotatedDatum, lists of images."""
