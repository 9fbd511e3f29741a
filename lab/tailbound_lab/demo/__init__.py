"""The demo: a traffic peak against the functions of stack.yml, Tailbound beside what OpenFaaS does today.

A command line over :mod:`tailbound_lab.live`, in reading order:

- ``__main__``  arguments, one run, the exit status
- ``traffic``   the table of functions, rates and bodies
- ``table``     the live table on a terminal, plain lines elsewhere, the verdict
- ``report``    report.html and result.json
"""
