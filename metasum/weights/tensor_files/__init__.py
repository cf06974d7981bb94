"""Writing and reading .safetensors files piece by piece."""
