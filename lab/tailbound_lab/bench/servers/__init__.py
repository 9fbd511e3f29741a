"""The peers' servers, one small program for each; all of them serve ``workloads.Model``.

``bentoml_service``, ``litserve_server``, ``mosec_server``: each runs in an environment of its
own, with the workload, the number of workers and the batching in ``BENCH_*`` variables.
"""
