"""A run that a real Prometheus watches: a real daemon process, replicas that speak vLLM's protocol, and all that can
happen to them in a minute.
"""
