"""`metasum benchmark`: what steps, updates, input, memory and evaluations cost, beside what they cannot do without."""
