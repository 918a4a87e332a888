from fedllm.logs import log_as_asked

# Every flow's process imports this module. Prefect sets up its own logging once, before or after this.
log_as_asked()
