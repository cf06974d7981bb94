"""Meta-Transfer Learning (Sun et al. 2019, arXiv:1812.02391): a frozen trunk, scaled and shifted for each task."""
