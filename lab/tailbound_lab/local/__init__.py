"""An OpenFaaS provider that runs replicas as processes on one machine: for development, the demo and tests.

The modules, from the edge inwards ([P] = pure: no I/O, no clock):

- ``__main__``      the command line
- ``platform``      builds all of the below, starts, runs and stops it; usable in-process
- ``gateway``       the listener: routes, basic auth, errors -> statuses
- ``provider``      the REST contract under ``/system``
- ``proxy``         ``/function/<name>``: least outstanding requests over the ready replicas
- ``metrics``       the gateway's metrics under the gateway's names
- ``registry``      every function by namespace and name; deploy, scale, remove
- ``function``      one function: holds its replicas at the count that is wanted
- ``plan`` [P]      which replicas to start and which to stop
- ``replica``       one replica: a supervised watchdog and its probes
- ``supervisor``    keeps one child process alive; stops it in order
- ``child``         the wrapper that ties a child's life to ours
- ``specs`` [P]     deployment bodies -> frozen ``FunctionSpec``, and back to a status
- ``stack`` [P]     stack.yml -> functions and the folders of their handlers
- ``images``        image name -> handler folder
- ``secrets``       secret files, mode 0600
- ``logs``          the last lines of every function, and who follows them
- ``ports``         free ports outside the range of outgoing connections
- ``prometheus``    the Prometheus child and its configuration
- ``autoscaler``    the autoscaler child

``demo`` is a program on top of ``platform``; nothing here knows it.
"""
