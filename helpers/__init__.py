"""The small package that the lessons import: one module a job, importing only downwards.

``runtime`` -> ``data`` -> ``models`` -> ``retrieval`` -> ``generation`` -> ``quantities``, ``statistics`` -> ``evaluation`` ->
``errors``, ``scoreboard`` -> ``training`` -> ``methods`` -> ``plots``. Importing it costs next to nothing: torch and its friends
are imported by the functions that use them. ``score_tickets`` is the command behind ``python -m helpers.evaluation``.
"""
