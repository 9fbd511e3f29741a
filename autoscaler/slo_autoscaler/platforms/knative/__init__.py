"""Knative: a class of our own, or a floor under Knative's scaler.

- ``own_class``        the platform: Services, and PodAutoscalers of our class
- ``objects``          the objects that are watched, and the loops that act
- ``allocation`` [P]   annotations and routes; a service's count for each revision
- ``status`` [P]       conditions, status and ServerlessService by Knative's rules
- ``minimum`` [P]      the floor as annotations of a Revision
"""
