"""An OpenFaaS provider that runs replicas as processes on one machine: for development, the demo and tests.

The modules, from the edge inwards ([P] = pure: no I/O, no clock):

- ``__main__``    the command line; runs the platform until a signal
- ``platform``    builds all of the below, starts, runs and stops it; usable in-process
- ``services``    Prometheus and the autoscaler beside it
- ``gateway``     the listener: routes, errors -> statuses
- ``provider``    the REST contract under ``/system``
- ``pods``        replicas as pods whose CPU limit the autoscaler changes
- ``proxy``       ``/function/<name>``: least outstanding requests over the ready replicas
- ``metrics``     the gateway's metrics under the gateway's names
- ``functions``   the deployed functions: deploy, scale, remove
- ``replica``     one replica: a supervised watchdog and its probes
- ``cgroups``     the CPU limit of a replica, changed while it runs
- ``supervisor``  keeps one child process alive; stops it in order
- ``child``       the wrapper that ties a child's life to ours
- ``stack`` [P]   stack.yml -> functions and the folders of their handlers
- ``specs`` [P]   deployment bodies -> frozen ``FunctionSpec``, and back to a status
- ``logs``        the files of every function and service
- ``ports``       free ports outside the range of outgoing connections
- ``errors`` [P]  one tree; each error knows its status
"""
