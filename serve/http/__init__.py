"""HTTP: the outermost shell. Knows nothing of models, and of the engine only the service before it.

server, channel, shutdown   the socket, waitress's connections, the end
app, routes                 the Flask application and its dialects
fields, schemas, sampling_fields   JSON bodies → completions
sse, errors, prometheus     what goes back
"""
