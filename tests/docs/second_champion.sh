# Sourced: another version of federation.yaml's model becomes champion, however good it is.
(cat params.yaml; echo "review: {allowed_loss: 100}") >lenient.yaml
OTHER=$(python - <<'END'
import mlflow

client = mlflow.MlflowClient()
champion = client.get_model_version_by_alias("federation", "champion").version
found = client.search_model_versions("name = 'federation'")
print(next(version.version for version in found if version.version != champion))
END
)
fedllm promote "$OTHER" --config lenient.yaml --reviewer "Ada Example" --reason "to have one to roll back"
