"""What libraries raise for files that are damaged, or made to hurt."""

from __future__ import annotations

# h5py: links to nowhere and to other files, types that NumPy lacks, sizes that overflow
BROKEN_HDF5 = (OSError, KeyError, ValueError, TypeError, AttributeError, RuntimeError)
