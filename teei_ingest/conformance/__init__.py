"""Another server judged by its answers: does it speak as the stream's file says?

Belongs here: questions to a server that changes nothing there, and what its answers mean. Does not belong here: reading
for keeps (`extract/`), what a person sees (`cli/`). Findings bear counts and names of the contract, never a value.
"""
