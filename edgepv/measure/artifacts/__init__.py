"""What can be measured, one file for each kind: what a user names in, something that can be called out."""

__all__ = ["artifact", "bundled", "compiled", "files", "find", "plan", "torch_module"]
