"""The peers' servers, one small program for each; all of them serve ``workloads.Model``."""
