"""The rates to come, and the replicas that stand by for them. [P]

- ``history``    the rates of two hours, what followed, and periods: minutes to hours, a day, a week
- ``scenarios``  odds of the rates to come, from the rates that followed similar ones
- ``price``      every replica that saves more late requests, over these odds, than its price
"""
