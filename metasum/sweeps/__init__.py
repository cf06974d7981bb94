"""W&B's sweep files, run here on Optuna: by any number of processes, without an account."""
