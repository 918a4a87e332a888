# Sourced: a training of federation.yaml that is under way, RUN its id, TRAINING its process.
fedllm run federation.yaml --agents external --set rounds.max=200 >training.log 2>&1 &
TRAINING=$!
until RUN=$(sed -n 's/.* run \([^ ]*\) of .*/\1/p' training.log) && [ -n "$RUN" ]; do
  kill -0 $TRAINING  # it ended too soon: so does this
  sleep 0.2
done
