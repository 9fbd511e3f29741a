"""The watchdog's process and its children: what the machine gives, and how they end.

- ``machine``    limits of this container: CPUs, CUDA devices, open files
- ``quota`` [P]  workers and threads that a CPU quota is worth
- ``launch``     ends a child together with the watchdog
- ``output``     stdout and stderr, without waiting for their reader
- ``stacks``     the stack that a process leaves when it hangs or crashes
"""
