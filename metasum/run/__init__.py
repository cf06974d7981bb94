"""One run: what was asked for, the plan that is made of it, its course, and what it leaves behind."""
