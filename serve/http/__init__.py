"""HTTP server of the completion API.

server, channel, shutdown   listening socket, waitress's connections, orderly shutdown
start_lines                 lines that the server prints when it starts
app, views, respond         Flask application, its routes, and responses to completion requests
page, status_views, editors_view   the page, and the state of the server and settings of editors that it shows
security                    access control: API keys, web pages (CORS), host names
request_log                 log of requests
errors, prometheus          error responses and metrics
"""
