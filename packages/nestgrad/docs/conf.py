"""Sphinx settings: Markdown pages, one theme."""

project = "nestgrad"
copyright = "the nestgrad authors"
extensions = ["myst_parser"]
myst_heading_anchors = 2
html_theme = "furo"
