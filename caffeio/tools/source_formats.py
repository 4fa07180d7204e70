"""What `caffeio db create` takes. No imports here: the command line asks before any work."""

SOURCE_FORMATS = ("list", "folders", "idx", "cifar", "npz", "hdf5")
