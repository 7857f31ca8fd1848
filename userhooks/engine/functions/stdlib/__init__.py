"""The functions of Elixir that functions may call, one file for each of Elixir's modules. Pure.

A file has a `FUNCTIONS` dictionary: names with what carries them out. That takes a meter and the arguments, and raises Raised for what
Elixir would raise. Where the work is more than a walk over the outermost level of arguments and result, it takes its steps from the meter.

Arguments of a kind that a function is not made for need no tests: a Python error like TypeError becomes Elixir's "no function clause
matching" where the function is called.
"""
