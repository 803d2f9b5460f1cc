"""The deadline runtime: which frame, which variant, and what is said when time is up."""
