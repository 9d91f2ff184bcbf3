"""Taking the personal data out: what each class becomes, people's tokens, text, and the guard before the write.

No HTTP, no storage. Nothing here writes a value anywhere but into the columns it returns.
"""
