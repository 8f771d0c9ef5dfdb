"""flota.stacks.translation: a finished Compose project to the messages that the control API takes, and back.

There is no model in between: the canonical tree goes straight into ServiceSpec, NetworkSpec, SecretSpec, ConfigSpec.
Names and labels are Docker's, so that tools that know Docker's stacks know these.
"""
