"""All rules about requests: admission, batching, dispatch. [P]

The engine allocates the workers' time. Requests of similar cost form a cost class, with its own service time
l(b) (``cost``, ``latency``) and its own lane (``lanes``). In a lane, requests that can be on time are ordered
by deadline. When a worker is idle, the policy (``policy``) cuts a batch from each lane, and the one with the
earliest deadline goes first. Under overload some requests go late in any order, so the batch with the most
requests on time per second goes first. A late request is served when no request on time needs the worker. A
batch that fails whole is retried in parts (``retries``), in their turn.

``engine`` is the state machine around that: events in, ``effects`` out, each request exactly once;
``prefetch`` selects workers that get their next batch early. It reads no clock and does no I/O; the server
(``shell``), the simulator and hypothesis drive the same code. ``capacity`` computes the throughput that
objective, front end and cores leave to the workers.

Start reading at ``Engine.tick``.
"""
