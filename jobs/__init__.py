"""Commands: parse, build the flow, run it, report. `styleres NAME` and `python -m jobs.NAME` are the same."""
