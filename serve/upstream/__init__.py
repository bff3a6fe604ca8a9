"""Other servers that answer completions for this one.

routing  which upstream gets a request: affinity, bounded load, states
ring     consistent hashing
health   ejection of upstreams that fail or are slow
retry    the tries of one request

address, client      the URL of an upstream, and connections to it
dialect, *_dialect   each engine's requests and answers
probe, member        what an upstream is, and its state
upstream_set         all of them, and the thread that checks them
progress             text and counts of one completion
upstream_call, upstream_runner   a request, and all of them
"""
