"""Log files of containers: written by conmon, rotated, read and followed here, sent to whoever subscribed."""
