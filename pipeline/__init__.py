"""The flow and what runs it. Start with `flow.py`: every step of both jobs, in order, on one page."""
