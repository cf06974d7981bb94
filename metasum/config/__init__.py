"""Settings: what a field is, the sections that several rooms read, flags. No torch here: `--help` should not wait."""

from metasum.config.field import UNSET, Checked, Option, flag_of, option, options_of

__all__ = ["UNSET", "Checked", "Option", "flag_of", "option", "options_of"]
