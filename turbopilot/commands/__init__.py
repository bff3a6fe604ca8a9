"""One verb a file: parse, call one function, render. Heavy imports stay inside the functions."""
