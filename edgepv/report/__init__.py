"""Every variant of one or more bundles side by side, as HTML, Markdown or JSON.

The page is drawn from measured.json alone.
"""
