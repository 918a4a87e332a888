from fedllm.logs import log_as_asked

# Here, since every flow's process imports it: Prefect sets its own logging up once, before this or after it.
log_as_asked()
