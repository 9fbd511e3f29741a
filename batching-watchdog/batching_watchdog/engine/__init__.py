"""Every rule about a request: whether it is admitted, which batch it joins, when that leaves. [P]

A worker's time is what there is to give. Requests that cost alike form a cost class, with a service time l(b)
of its own (``cost``, ``latency``), and wait in a lane of its own (``lanes``): those that can be on time by
deadline, the late ones behind. When a worker is free the policy (``policy``) cuts a batch from each lane and
chooses among them by Moore's rule: all that can be on time are, and where there is too much work, the batches
are left out that give the fewest requests for it. A late request is served when nothing on time wants the
worker, or in the room of a batch. A batch that kills its worker is tried again in parts, in one place and in
its turn.

``engine`` is the state machine around that: events in, ``effects`` out, each request exactly once;
``prefetch`` says which worker has its next batch early. It reads no clock and does no I/O; the server
(``shell``), the simulator and hypothesis drive the same code. ``capacity`` says what is left of the workers'
throughput by the objective, the front end and the cores.

Start reading at ``Engine.tick``.
"""
