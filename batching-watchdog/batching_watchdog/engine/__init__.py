"""What is decided about a request: which batch it joins, when that leaves, and whether it is refused. [P]

- ``scheduler``  the queue, on time and late; what happens next
- ``policy``     how large a batch is and when it leaves; ``POLICIES``
- ``latency``    the estimated service time l(b), the best size, the capacity of the workers
- ``capacity``   the share of it that the front end and the cores leave

Reads no clock and does no I/O. ``batcher`` carries its decisions out.
"""
