"""Few-shot learners side by side on the same episodes: what is asked, what runs, what is shown."""
