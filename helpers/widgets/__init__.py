"""The lessons' widgets: core ipywidgets (7.7 and 8), each a thin face on a plain function of the same module.

Only notebooks import them. ``base`` holds what they share; then one module for each lesson that has a widget.
"""
