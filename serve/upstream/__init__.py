"""Other servers that answer completions for this one.

routing  which upstream gets a request: affinity, bounded load, states
ring     consistent hashing
health   ejection of upstreams that fail or are slow
retry    the tries of one request
"""
