"""`shearpin run`: a script or a command, unchanged, with its frameworks under a guard.

The command is started with a ``sitecustomize`` of ours at the head of ``PYTHONPATH``, so that every Python in it,
however many processes down, installs the guard before it runs anything. What they have to tell comes back in a file.
"""
