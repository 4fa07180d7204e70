"""From a picture to a blob: DataTransformer and the forks' augmentations."""
