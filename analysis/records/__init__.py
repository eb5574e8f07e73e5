"""What is stored and how it is read again: schema, settings, studies on disk. Torch-free.

What figures and reports import of this package, they import from here.
"""
