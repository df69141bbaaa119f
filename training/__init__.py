"""Training recipes and the drawn world; never imported by `pipelines` or `tabs`."""
