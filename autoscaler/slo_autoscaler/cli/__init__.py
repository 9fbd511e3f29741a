"""The commands that ask a running autoscaler: ``explain`` and ``status``."""
