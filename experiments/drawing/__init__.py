"""Draw labels in colors, HTML pages and charts."""
