"""Traces in files on this machine."""

from shearpin_exporters.files.jsonlines import JSONLinesExporter

__all__ = ["JSONLinesExporter"]
