"""flota.cli.stack: what the commands of `flota stack` share: the files, what a stack has, deploying, removing."""
