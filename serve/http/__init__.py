"""HTTP: the outermost shell. Knows nothing of models, and of the engine only the service before it.

server, channel, shutdown   the socket, waitress's connections, the end
app, routes                 the Flask application and its dialects
security                    who may ask: keys, web pages, names of the server
access, prompt_log          what the log says of a request
fields, schemas, sampling_fields   JSON bodies → completions
sse, errors, prometheus     what goes back
"""
