"""Who does what the table decides: one protocol (`base`), and the engines that follow it."""
