"""HTTP: the outermost shell.

server, channel, shutdown   the socket, waitress's connections, the end
app, views, respond         the Flask application, its routes, and how completions are answered
security                    who may ask: keys, web pages, names of the server
access, prompt_log          what the log says of a request
errors, prometheus          what goes back beside answers
"""
