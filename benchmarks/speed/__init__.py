"""What `sweep_speed.py` is made of: tasks, ways to train them, clocks, commands, and the page."""
