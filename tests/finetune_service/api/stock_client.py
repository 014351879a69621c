"""What a person does with the stock MLflow client: python stock_client.py SECRET.

Prints the ids of all that it made. The secret is in every one of them.
"""

from __future__ import annotations

import json
import os
import sys
import tempfile
from pathlib import Path

import mlflow
from mlflow.genai.datasets import create_dataset

if __name__ == "__main__":
    secret = sys.argv[1]
    client = mlflow.MlflowClient()
    mlflow.set_experiment(f"experiment of {secret}")
    large = os.urandom(8_000_000)
    runs = []
    for name in ("first", "second"):
        with mlflow.start_run(run_name=f"{name} of {secret}") as run:
            runs.append(run.info.run_id)
            mlflow.log_params({"rank": 8 * len(runs), "note": secret})
            mlflow.set_tag("note", secret)
            for step in range(20):
                mlflow.log_metrics({"train_loss": 2 / (step + len(runs))}, step=step)
            mlflow.log_text(secret, "notes.txt")
            with tempfile.TemporaryDirectory() as folder:
                (Path(folder) / "large.bin").write_bytes(large)
                mlflow.log_artifact(f"{folder}/large.bin")
            fetched = mlflow.artifacts.download_artifacts(
                run_id=run.info.run_id, artifact_path="large.bin"
            )
            assert Path(fetched).read_bytes() == large
    model = f"model-of-{secret}"
    client.create_registered_model(model, description=secret)
    version = client.create_model_version(model, run.info.artifact_uri, run.info.run_id)
    client.set_registered_model_alias(model, "best", version.version)
    logged = client.create_logged_model(run.info.experiment_id, name="m", params={"note": secret})
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "notes.txt").write_text(secret)
        client.log_model_artifacts(logged.model_id, folder)
    client.finalize_logged_model(logged.model_id, "READY")
    with mlflow.start_span("span") as span:
        span.set_inputs({"question": secret})
    mlflow.flush_trace_async_logging()
    trace = mlflow.search_traces(return_type="list")[0]
    mlflow.log_feedback(trace_id=trace.info.trace_id, name="good", value=secret)
    dataset = create_dataset(name=f"dataset of {secret}", experiment_id=run.info.experiment_id)
    dataset.merge_records([{"inputs": {"question": secret}}])
    ids = {
        "experiment": run.info.experiment_id,
        "experiment_name": f"experiment of {secret}",
        "run": run.info.run_id,
        "runs": runs,
        "artifacts": run.info.artifact_uri,
        "model": model,
        "version": str(version.version),
        "logged": logged.model_id,
        "logged_artifacts": logged.artifact_location,
        "trace": trace.info.trace_id,
        "dataset": dataset.dataset_id,
    }
    print(json.dumps(ids))  # noqa: T201
