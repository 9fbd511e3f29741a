"""The demo: a traffic peak against the functions of stack.yml, Tailbound beside what OpenFaaS does today.

In reading order:

- ``__main__``  arguments, one run, the exit status
- ``traffic``   the table of functions, rates and bodies
- ``session``   one run: traffic and display in, an ``Outcome`` out
- ``twins``     each function once more, served and scaled as OpenFaaS CE does
- ``disturbance``  what other programs and the host did to it
- ``watch``     what Prometheus, the provider and the autoscaler's log say meanwhile
- ``table``     the live table, the verdict
- ``report``    report.html and result.json
"""
