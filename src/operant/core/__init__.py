"""Pure maths on tensors: records, returns, losses, divergences, schedules, statistics. No I/O, no environments."""
