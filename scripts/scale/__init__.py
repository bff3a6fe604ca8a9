"""A simulator of replicas behind the router, and what calibrates it: real servers and their step times.

typing_session  the recorded typing session as numbers: requests, their tokens, and what they share
replica     one server: queue, slots, steps, prefix cache
policy      affinity, random, round robin, least loaded
simulation  developers, replicas and the clock
measure     step times of a running server
paced       a real server whose steps take a fixed time
replay      the same developers against real servers
report      tables, the plot, and the marked part of docs/scale.md
"""
