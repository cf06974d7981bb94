"""Settings: what a field is, the sections that several rooms read, flags. No torch here: `--help` should not wait.

(A room called `settings` would hide the function `metasum.settings` once it is imported.)
"""

from metasum.config.field import UNSET, Checked, NoSettings, Option, flag_of, option, options_of

__all__ = ["UNSET", "Checked", "NoSettings", "Option", "flag_of", "option", "options_of"]
