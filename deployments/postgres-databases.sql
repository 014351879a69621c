-- Run by the PostgreSQL image when its volume is new.
CREATE DATABASE finetune_mlflow;
CREATE DATABASE finetune_mlflow_auth;
