# Sourced: a training of federation.yaml that was killed while it was under way, RUN its id.
fedllm run federation.yaml --agents external >training.log 2>&1 &
TRAINING=$!
until RUN=$(sed -n 's/.* run \([^ ]*\) of .*/\1/p' training.log) && [ -n "$RUN" ]; do
  kill -0 $TRAINING  # it ended too soon: so does this
  sleep 0.2
done
kill -9 $TRAINING
wait $TRAINING || true
