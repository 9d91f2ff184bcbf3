"""What every stream has to pass, whatever it is: parametrized over the streams that there are.

Belongs here: cases that follow from a stream's declaration, and the server that plays it. Does not belong here: what is
special about one stream, and Dagster.
"""
