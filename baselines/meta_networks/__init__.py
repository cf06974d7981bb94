"""Meta Networks (Munkhdalai & Yu 2017, arXiv:1703.00837): slow weights for all tasks, fast ones for each."""
