"""Choose, cut and batch training samples."""
