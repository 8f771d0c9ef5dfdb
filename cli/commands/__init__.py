"""flota.cli.commands: one module per noun; each is imported only when its command is named."""
