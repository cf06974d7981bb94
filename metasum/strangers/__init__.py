"""Networks whose trainings knew nothing of each other: finished runs are opened, merged and measured together."""
