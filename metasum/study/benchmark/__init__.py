"""What `metasum benchmark` times and counts: ratios that hold on a noisy machine, because they are of one round."""
