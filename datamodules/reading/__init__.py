"""Read pixels out of files, folders and zips."""
