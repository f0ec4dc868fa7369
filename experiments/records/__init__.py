"""Read and write what is on disk: run folders, results, records of each image."""
