"""The pack format: a split in one file, local or in an object store."""
