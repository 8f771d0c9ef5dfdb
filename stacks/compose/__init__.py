"""flota.stacks.compose: Compose files, read, merged and written out in one canonical form.

The way of a file: `reading` (YAML to a tree that knows its lines) → `interpolation` (variables) → `validation` (the
schema) → `canonical` (short forms become long ones, values are checked) → `extending`, `merging` → `finishing` (what
one file alone cannot know). `loading` walks it. `writing` prints the result. Nothing here knows a message of flota.
"""
