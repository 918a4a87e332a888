"""What `fedllm doctor` looks at: a module a subject, a function a question."""
