"""HTTP: the outermost shell.

server, channel, shutdown   the socket, waitress's connections, the end
app, views, respond         the Flask application, its routes, and how completions are answered
security                    who may ask: keys, web pages, names of the server
request_log                 the log of requests
errors, prometheus          what goes back beside answers
"""
