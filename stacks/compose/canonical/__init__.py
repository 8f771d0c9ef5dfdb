"""flota.stacks.compose.canonical: every short form becomes the long one, every value is checked and written one way.

Works on one file's tree, before it is merged with others: so merging has one form of everything to deal with, and an
error names the line the value stands on. What is canonical stays as it is when it is made canonical again.
"""
