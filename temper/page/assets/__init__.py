"""The page's own template, style and script."""
