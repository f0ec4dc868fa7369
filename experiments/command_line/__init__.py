"""Read the command line: values and their origins, patterns of rows, networks, files, errors.

Nothing here imports torch.
"""
