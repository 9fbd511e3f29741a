"""All rules about requests: admission, batching, dispatch. [P]

The engine allocates the workers' time. Requests of similar cost form a cost class, with its own service time
l(b) (``cost``, ``latency``) and its own lane (``lanes``). In a lane, requests that can be on time are ordered
by deadline, with late ones behind them. When a worker is idle, the policy (``policy``) cuts a batch from each
lane and chooses among them by Moore's rule. If all can be on time, all are. Under overload some requests go
late in any order, so the batch with the most requests on time per second goes first. Batches then leave
apart, since workers that start together share too few requests. A late request is served when no request on
time needs the worker, or backfilled into a batch. A batch that kills its worker is retried in parts, one at a
time and in its turn.

``engine`` is the state machine around that: events in, ``effects`` out, each request exactly once;
``prefetch`` selects workers that get their next batch early. It reads no clock and does no I/O; the server
(``shell``), the simulator and hypothesis drive the same code. ``capacity`` computes the throughput that
objective, front end and cores leave to the workers.

Start reading at ``Engine.tick``.
"""
