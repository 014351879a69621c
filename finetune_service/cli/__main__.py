"""python -m finetune_service.cli."""

from finetune_service.cli import main

main()
