"""Replicas of a model on a Ray cluster, behind one front.

Ray Serve places, watches, scales and replaces the replicas, and reports to the front which ones run. Requests and
tokens do not pass through Ray: they flow over HTTP from a replica to the front. This package is the only door to `ray`.
"""
