"""What Prefect does by itself for the stack's flow runs.

Run as a program, it tells Prefect of it, where no `finetune-cli up` does.
"""

from __future__ import annotations

from finetune_service.stack.parts import HEARTBEAT_SECONDS
from finetune_service.stack.prefect_api import PrefectApi

LOST_SECONDS = 3 * HEARTBEAT_SECONDS

LOST_RUNS = {
    "name": "finetune: lost runs",
    "description": "A flow run that is not heard of any more has crashed.",
    "enabled": True,
    "trigger": {
        "type": "event",
        "posture": "Proactive",
        "match": {"prefect.resource.id": "prefect.flow-run.*"},
        "match_related": {
            "prefect.resource.role": "tag",
            "prefect.resource.id": [
                f"prefect.tag.{each}" for each in ("finetune", "retrain", "sweep", "evaluate")
            ],
        },
        "after": ["prefect.flow-run.heartbeat"],
        # Another heartbeat, or any change of its state: events are called by a state's name, which
        # may be anybody's, like HandedBack. A run that is paused or handed back is not waited for.
        "expect": ["prefect.flow-run.*"],
        "for_each": ["prefect.resource.id"],
        "threshold": 1,
        "within": LOST_SECONDS,
    },
    "actions": [
        {
            "type": "change-flow-run-state",
            "state": "CRASHED",
            "message": f"No heartbeat was heard for {LOST_SECONDS} s: "
            "its process or its machine is lost, or cannot reach Prefect.",
        }
    ],
}


def main() -> None:
    """Tells the Prefect that the environment names."""
    with PrefectApi() as prefect:
        prefect.keep_automation(LOST_RUNS)


if __name__ == "__main__":
    main()
