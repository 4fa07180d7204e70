"""Databases of records: LMDB and LevelDB."""
