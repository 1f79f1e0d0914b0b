"""One thin script a stage; run them with `python -m stages.<name>`, or let DVC do it."""
