"""HTTP towards other servers.

- ``session``  credentials, certificates, extra headers and proxies of requests
- ``calls``    requests to the platform, side by side and with a time limit
- ``pages``    one page of metrics, fetched within limits of time and size
"""
