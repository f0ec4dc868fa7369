"""Read the command line: names, values and their origins, patterns, networks, files, errors. Nothing here imports torch."""
