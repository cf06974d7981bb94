"""The top floor: where names become objects, and settings become runs and studies."""
