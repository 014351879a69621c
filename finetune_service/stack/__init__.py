"""The local stack: PostgreSQL, Prefect, MLflow, the API and workers under one supervisor."""
