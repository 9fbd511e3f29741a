"""What people and programs see of the decisions.

- ``journal``    the last decisions of each function, for ``explain``, the page and the decision log
- ``words`` [P]  reasons and numbers as text, for log, page and terminal
- ``metrics``    every metric of the autoscaler
- ``web``        the status page, the JSON beside it, and the probes
"""
