"""What acts on a training: the announcer and the keeper beside the loop, others beside its events.

`Announcer` and `Keeper` run in the trainer's process and hear the loop itself. All others run
in the parent and hear events, so nothing that they do can stop or slow a training.
"""
