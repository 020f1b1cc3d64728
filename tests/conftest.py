"""What holds for every test."""

import os

# Before anything of ours is imported: a bug inside Shearpin, which users find in their log, is raised here.
os.environ["SHEARPIN_STRICT"] = "1"
