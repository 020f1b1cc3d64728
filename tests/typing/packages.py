"""The three packages are found, and known to be typed, with no path given to the checker."""

import shearpin
import shearpin_exporters
import shearpin_integrations

names: list[str] = [package.__name__ for package in (shearpin, shearpin_exporters, shearpin_integrations)]
