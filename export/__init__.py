"""What leaves the project: the report, latency, predictions, the `thinyolo` command."""
