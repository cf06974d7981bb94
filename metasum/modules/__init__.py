"""Networks of your own: any `nn.Module` merged, aligned, repaired and measured on any loader."""
